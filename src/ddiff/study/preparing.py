"""The preparation of a study: what it will do, from the cost of a step of each training."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddiff.config.sweeps import name_of
from ddiff.study.calibration import combined
from ddiff.study.engines import Engine, Job, Local
from ddiff.study.engines.base import as_they_end
from ddiff.study.engines.children import last_line
from ddiff.study.figures import BY_FEATURES, metrics_for
from ddiff.study.folder import Cost, Trial
from ddiff.study.hindsight import work
from ddiff.study.plan import VALIDATIONS, Plan, Training, fit_of, merged, slug
from ddiff.study.racing import go_on, rung_steps
from ddiff.system.console import console, duration
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import read_json, write_json

MOST_COPIES = 8  # of a calibration: each holds all nets in memory


@dataclass(frozen=True)
class Ready:
    """A study whose costs are known: what there is to run."""

    plan: Plan
    folder: Path
    trials: tuple[Trial, ...]  # seed by seed, so that what is there early is paired
    costs: dict[str, Cost]  # of each training
    drawings: dict[str, dict[str, Any]]  # of each variant: evaluations a sample, solver's steps
    refused: dict[str, str]  # training or variant -> why it cannot run

    @property
    def rungs(self) -> int:
        return len(self.plan.race.rungs) + 1 if self.plan.race else 1

    @property
    def classifier(self) -> Path | None:
        """The run whose features samples are compared by; None where none is needed, or the recipe
        names an extractor."""
        said = any(name_of(w).split(".")[0] == "extractor" for w in self.plan.trainings[0].words)
        return None if said or not by_features(*self.plan.measure) else self.folder / "classifier"

    def alive(self, rung: int) -> list[str]:
        """The variants that run up to a rung, decided from what was found at those before it."""
        names = [v.name for v in self.plan.variants if v.name not in self.refused]
        race = self.plan.race
        for before in range(rung):
            assert race is not None
            figures = self._deciding(before)
            names = go_on({n: figures[n] for n in names}, race.share, self.plan.better, race.keep)
        return names

    def _deciding(self, rung: int) -> dict[str, dict[int, float]]:
        """{variant: {seed: the deciding figure at a rung}} of what is there."""
        found: dict[str, dict[int, float]] = {variant.name: {} for variant in self.plan.variants}
        for trial in self.trials:
            for variant, one in (trial.found(rung) or {}).get("variants", {}).items():
                if variant in found and self.plan.decide in one["figures"]:
                    found[variant][trial.seed] = one["figures"][self.plan.decide]
        return found

    def task(self, trial: Trial) -> dict[str, Any]:
        """Return what a trial is to do: trial.json."""
        plan = self.plan
        (training,) = (one for one in plan.trainings if one.name == trial.training)
        variants, draw = plan.variants_of(training.name), {}
        for variant in variants:
            steps = self.drawings[variant.name].get("num_steps")
            what = "plan" if fit_of(variant.drawing) else "solver"
            own = [f"{what}.num_steps={steps}"] if steps else []
            draw[variant.name] = merged(variant.drawing, own)
        measured = [w for w in training.words if name_of(w).split(".")[0] == "extractor"]
        measured += [f"extractor.run={self.classifier}"] if self.classifier else []
        measured += ["accelerator=cpu"] if training.choices.get("trainer") == "cpu" else []
        return {
            "flags": plan.flags,
            "train": [*training.words, f"seed={trial.seed}"],
            "steps": trial.steps[-1],
            "val_every": max(1, -(-trial.steps[-1] // VALIDATIONS)),
            "measure": list(plan.measure),
            "decide": plan.decide,
            "draw": draw,
            "slugs": {variant.name: slug(variant.name) for variant in variants},
            "num_samples": plan.num_samples,
            "evaluate": measured,
        }

    def mark(self) -> dict[str, Any]:
        """Everything that a report needs beside the runs: study.json."""
        return {
            **asdict(self.plan),
            "refused": self.refused,
            "steps": {trial.training: trial.steps for trial in self.trials},
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "evaluations": {name: one.get("evaluations") for name, one in self.drawings.items()},
        }

    def measuring(self, training: str) -> dict[str, float]:
        """Estimate the seconds that drawing and measuring each variant of a training takes."""
        if not metrics_for(self.plan.measure):
            return {}
        drawn = {v.name: self.drawings[v.name] for v in self.plan.variants_of(training)}
        num, forward = self.plan.num_samples, self.costs[training].forward
        return {
            name: (num * (one.get("evaluations") or 0) + (one.get("fit") or 0)) * forward
            for name, one in drawn.items()
        }

    def cost_in_words(self, slots: int) -> str:
        """An estimate of what is left to do: runs, time, disk."""
        plan, seconds, disk, left = self.plan, 0.0, 0.0, 0
        share = work(len(plan.variants), plan.race.rungs, plan.race.share) if plan.race else 1.0
        for trial in self.trials:
            if trial.failure or trial.found(-1):
                continue
            left += 1
            cost = self.costs[trial.training]
            begun = min(trial.step_now(), trial.steps[-1])
            seconds += cost.load + cost.start + share * (trial.steps[-1] - begun) * cost.per_step
            disk += 2 * cost.state_bytes
            seconds += sum(self.measuring(trial.training).values())
        busy = max(1, min(slots, left))
        return (
            f"{left} of {len(self.trials)} runs to do, {busy} at a time: "
            f"about {duration(seconds / busy)}, {disk / 1e9:.2g} GB on the disk"
        )


def by_features(*names: str) -> bool:
    """Return True if one of these figures compares samples by features."""
    return any(metric in BY_FEATURES for metric in metrics_for(names))


def prepared(plan: Plan, folder: Path, engine: Engine) -> Ready:
    """Measure the costs that are not known yet. Nothing is trained, and no run is touched."""
    costs, drawings, refused = calibrated(plan, folder, engine)
    trials = []
    for training in (one for one in plan.trainings if one.name in costs):
        steps = steps_of(plan, training, costs[training.name])
        stops = tuple(rung_steps(steps, plan.race.rungs if plan.race else ()))
        for seed in plan.seeds:
            place = folder / training.name / f"seed_{seed}"
            trials.append(Trial(training.name, seed, place, stops))
    trials.sort(key=lambda trial: plan.seeds.index(trial.seed))
    return Ready(plan, folder, tuple(trials), costs, drawings, refused)


def steps_of(plan: Plan, training: Training, cost: Cost) -> int:
    if plan.equal == "time":
        return cost.steps_in(plan.budget)
    if plan.equal == "evaluations":
        return int(cost.recipe_steps)
    return max(1, round(plan.budget / (training.batch if plan.equal == "samples" else 1)))


def calibrated(
    plan: Plan, folder: Path, engine: Engine
) -> tuple[dict[str, Cost], dict[str, dict[str, Any]], dict[str, str]]:
    """The cost of every training, how every variant draws, and what cannot run, with why.

    What was measured before is kept; what could not run is tried again. New trainings are measured
    beside the first one, and brought to the time at which that was measured first. Raises
    DdiffError where the first variant cannot run, or none of the others.
    """
    file = folder / "costs.json"
    known = read_json(file)
    costs = {name: Cost(**cost) for name, cost in known.get("costs", {}).items()}
    words = {t.name: [*t.words] for t in plan.trainings}
    before = {  # earlier versions kept the place of the user's own configs here
        name: [word for word in of if not word.startswith("hydra.")]
        for name, of in known.get("words", {}).items()
    }
    if any(before[name] != words[name] for name in before.keys() & words.keys()):
        if any((folder / name).is_dir() for name in before):
            raise ConfigError(f"out: {folder} holds another study; give another out=")
        costs = {}
    most = plan.budget if plan.equal == "evaluations" else None
    found_by = {name: [*of, *plan.search] for name, of in words.items()}
    variants = {v.name: [*found_by[v.training], *v.drawing] for v in plan.variants}
    asked = {"trainings": found_by, "variants": variants, "most_evaluations": most}
    new = [name for name in words if name not in costs]
    if known.get("asked") != asked or known["refused"]:
        first = plan.trainings[0].name
        measured = dict.fromkeys([first, *new]) if new else {}
        ask = {**asked, "trainings": {name: found_by[name] for name in measured}}
        parts = [part for part in ask_engine(engine, folder / "calibration", ask)]
        found = combined([part["costs"] for part in parts]) if measured else {}
        drawings = parts[0]["drawings"]
        refused = {name: cost for name, cost in found.items() if isinstance(cost, str)}
        refused |= {name: one["why"] for name, one in drawings.items() if "why" in one}
        fresh = {name: cost for name, cost in found.items() if isinstance(cost, Cost)}
        if first in costs and first in fresh:
            ratio = costs[first].step / fresh[first].step
            fresh = {name: cost.scaled(ratio) for name, cost in fresh.items()}
        costs = {**fresh, **costs}
        known = {
            "words": before | words, "asked": asked, "drawings": drawings, "refused": refused,
            "costs": {name: asdict(cost) for name, cost in costs.items()},
        }  # fmt: skip
        write_json(file, known)
    refused = dict(known["refused"])
    for variant in plan.variants:
        if variant.training in refused:
            refused[variant.name] = refused[variant.training]
    first, *others = (v.name for v in plan.variants)
    if first in refused or (others and refused.keys() >= {*others}):
        name = first if first in refused else others[0]
        raise DdiffError(f"{name}: {refused[name]}")
    return {n: c for n, c in costs.items() if n not in refused}, known["drawings"], refused


def ask_engine(engine: Engine, folder: Path, ask: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of calibrations: on this machine one in each slot, all at the same time."""
    copies = min(engine.slots, MOST_COPIES) if isinstance(engine, Local) else 1
    jobs = []
    for number in range(copies):
        place = folder / str(number)
        shutil.rmtree(place, ignore_errors=True)
        write_json(place / "ask.json", ask)
        words = ("ddiff.study.calibration", str(place))
        jobs.append(Job(f"calibration {number}", words, place / "log.txt"))
    console.print(f"calibration of {len(ask['trainings'])} trainings, a step of each in turns")
    for some in as_they_end(engine, jobs):
        for one in some:
            if one.status != 0:
                raise DdiffError(f"calibration: {last_line(one.job.log)} ({one.job.log})")
    return [read_json(folder / str(number) / "costs.json") for number in range(copies)]

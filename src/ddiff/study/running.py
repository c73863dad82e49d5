"""A study from its plan to its last figure. Everything that it knows is in its folder.

    <out>/costs.json                  what steps cost, and so how many steps each training has
    <out>/classifier/                 a run, where figures by features need one
    <out>/<training>/seed_0/          a run, with trial.json, figures/<step>.json and log.txt

A start reads what is there, does what is missing, and repeats nothing.
"""

import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from ddiff.config.sweeps import name_of
from ddiff.config.trees import flat
from ddiff.config.validation import given_options
from ddiff.study.calibration import combined
from ddiff.study.engines import Ended, Engine, Job, Local
from ddiff.study.engines.children import last_line
from ddiff.study.figures import BY_FEATURES, metrics_for
from ddiff.study.folder import FAILURE, MARK, TASK, Cost, Trial
from ddiff.study.hindsight import work
from ddiff.study.plan import VALIDATIONS, Plan, Training, merged, slug
from ddiff.study.racing import go_on, rung_steps
from ddiff.system.console import console, duration, progress
from ddiff.system.errors import ConfigError, DdiffError, Stopped
from ddiff.system.files import lock, read_json, write_json

TRIES = 3  # of a run that is ended by something else than itself
MOST_COPIES = 8  # of a calibration: each holds all nets in memory
NOT_ITS_OWN = ("batch_size", "seed", "num_workers")  # options of data that do not name the data


@dataclass(frozen=True)
class Ready:
    """A study whose costs are known: what there is to run."""

    plan: Plan
    folder: Path
    trials: tuple[Trial, ...]
    refused: dict[str, str]  # training or variant -> why it cannot run

    @property
    def rungs(self) -> int:
        return len(self.plan.race.rungs) + 1 if self.plan.race else 1

    def figures(self, rung: int, name: str) -> dict[str, dict[int, float]]:
        """{variant: {seed: a figure at a rung}} of what is there."""
        found: dict[str, dict[int, float]] = {variant.name: {} for variant in self.plan.variants}
        for trial in self.trials:
            at = trial.found(rung)
            for variant, one in (at or {}).get("variants", {}).items():
                if variant in found and name in one["figures"]:
                    found[variant][trial.seed] = one["figures"][name]
        return found

    def alive(self, rung: int) -> list[str]:
        """The variants that run up to a rung, decided from what was found at those before it."""
        names = [v.name for v in self.plan.variants if v.name not in self.refused]
        race = self.plan.race
        for before in range(rung):
            assert race is not None
            figures = self.figures(before, self.plan.decide)
            names = go_on({n: figures[n] for n in names}, race.share, self.plan.better, race.keep)
        return names


def prepared(plan: Plan, folder: Path, engine: Engine, retry: bool) -> Ready:
    """Measure what is not measured yet, and write the task of every trial."""
    costs, drawings, refused = calibrated(plan, folder, engine)
    extractor, trouble = classifier(plan, folder, engine)
    if trouble:
        console.print(f"note        no figures by features: {trouble}", markup=False)
        if needs_extractor([plan.decide]):
            raise DdiffError(f"decide: {plan.decide} needs a classifier: {trouble}")
    trials = []
    for training in plan.trainings:
        if training.name not in costs:
            continue
        steps = steps_of(plan, training, costs[training.name])
        stops = tuple(rung_steps(steps, plan.race.rungs if plan.race else ()))
        for seed in plan.seeds:
            place = folder / training.name / f"seed_{seed}"
            trial = Trial(training.name, seed, place, stops)
            task = task_of(plan, training, seed, steps, drawings, extractor)
            assign(trial, task, retry)
            trials.append(trial)
    trials.sort(key=lambda trial: plan.seeds.index(trial.seed))
    mark = {**asdict(plan), "refused": refused}
    mark["steps"] = {trial.training: trial.steps for trial in trials}
    mark["costs"] = {name: asdict(cost) for name, cost in costs.items()}
    mark["evaluations"] = {name: one.get("evaluations") for name, one in drawings.items()}
    write_json(folder / MARK, mark)
    return Ready(plan, folder, tuple(trials), refused)


def steps_of(plan: Plan, training: Training, cost: Cost) -> int:
    if plan.equal == "time":
        return cost.steps_in(plan.budget)
    if plan.equal == "evaluations":
        return int(cost.recipe_steps)
    return max(1, round(plan.budget / (training.batch if plan.equal == "samples" else 1)))


def task_of(
    plan: Plan,
    training: Training,
    seed: int,
    steps: int,
    drawings: dict[str, dict[str, Any]],
    extractor: list[str],
) -> dict[str, Any]:
    """The task of a trial: what it is told to do."""
    variants = plan.variants_of(training.name)
    draw = {}
    for variant in variants:
        chosen = drawings[variant.name].get("num_steps")
        steps_of_solver = [f"solver.num_steps={chosen}"] if chosen else []
        draw[variant.name] = merged(variant.drawing, steps_of_solver)
    own = [word for word in training.words if name_of(word).split(".")[0] == "extractor"]
    on_cpu = ["accelerator=cpu"] if training.choices.get("trainer") == "cpu" else []
    return {
        "train": [*training.words, f"seed={seed}"],
        "steps": steps,
        "val_every": max(1, -(-steps // VALIDATIONS)),
        "measure": list(plan.measure),
        "decide": plan.decide,
        "draw": draw,
        "slugs": {variant.name: slug(variant.name) for variant in variants},
        "num_samples": plan.num_samples,
        "evaluate": [*(own or extractor), *on_cpu],
    }


def assign(trial: Trial, task: dict[str, Any], retry: bool) -> None:
    """Write a trial's task. Another training there is refused; what is measured otherwise than
    before is measured again."""
    file = trial.folder / TASK
    before = read_json(file)
    begun = (trial.folder / "checkpoints").is_dir() or trial.failure is not None
    for name in ("train", "steps"):
        if before and begun and before[name] != task[name]:
            raise ConfigError(
                f"out: {trial.folder} holds a run of another study ({name} {_said(before[name])}, "
                f"now {_said(task[name])}); give another out="
            )
    if before and _measured(before) != _measured(task):
        shutil.rmtree(trial.folder / "figures", ignore_errors=True)
        (trial.folder / FAILURE).unlink(missing_ok=True)
    if retry:
        (trial.folder / FAILURE).unlink(missing_ok=True)
    if before != task:
        write_json(file, task)


def _measured(task: dict[str, Any]) -> dict[str, Any]:
    """The task without what only says which of its figures decides."""
    rest = {name: value for name, value in task.items() if name != "decide"}
    return {**rest, "measure": sorted(task["measure"])}


def _said(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def calibrated(
    plan: Plan, folder: Path, engine: Engine
) -> tuple[dict[str, Cost], dict[str, dict[str, Any]], dict[str, str]]:
    """The cost of every training, how every variant draws, and what cannot run, with why.

    What was measured before is kept. New trainings are measured beside the first one, and brought
    to the time at which that was measured first.
    """
    file = folder / "costs.json"
    known = read_json(file)
    costs = {name: Cost(**cost) for name, cost in known.get("costs", {}).items()}
    words = {t.name: list(t.words) for t in plan.trainings}
    before = known.get("words", {})
    if any(before[name] != words[name] for name in before.keys() & words.keys()):
        if any((folder / name).is_dir() for name in before):
            raise ConfigError(f"out: {folder} holds another study; give another out=")
        costs = {}
    most = plan.budget if plan.equal == "evaluations" else None
    variants = {v.name: [*words[v.training], *v.drawing] for v in plan.variants}
    asked = {"trainings": words, "variants": variants, "most_evaluations": most}
    new = [name for name in words if name not in costs]
    if known.get("asked") != asked:
        first = plan.trainings[0].name
        measured = dict.fromkeys([first, *new]) if new else {}
        ask = {**asked, "trainings": {name: words[name] for name in measured}}
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
    if plan.variants[0].name in refused:
        raise DdiffError(f"{plan.variants[0].name}: {refused[plan.variants[0].name]}")
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
    for one in finished(engine, jobs):
        if one.status != 0:
            raise DdiffError(f"calibration: {last_line(one.job.log)} ({one.job.log})")
    return [read_json(folder / str(number) / "costs.json") for number in range(copies)]


def needs_extractor(names: Sequence[str]) -> bool:
    return any(metric in BY_FEATURES for metric in metrics_for(names))


def classifier(plan: Plan, folder: Path, engine: Engine) -> tuple[list[str], str | None]:
    """Options that give the extractor of features, and why there is none.

    Where figures by features are asked for and the recipe names no extractor, a classifier is
    trained on the same data.
    """
    first = plan.trainings[0]
    said = any(name_of(word).split(".")[0] == "extractor" for word in first.words)
    if said or not needs_extractor(plan.measure):
        return [], None
    place = folder / "classifier"
    options = [f"extractor.run={place}"]
    if (place / "metrics.json").is_file():
        return options, None
    words = ["experiment=classifier", f"data={first.choices['data']}"]
    own = flat(OmegaConf.to_container(given_options("train", first.words).data, resolve=False))
    default = flat(OmegaConf.to_container(given_options("train", words).data, resolve=False))
    words += [
        f"data.{name}={_hydra(value)}"
        for name, value in own.items()
        if name not in NOT_ITS_OWN and default.get(name) != value
    ]
    begun = (place / "checkpoints/last.ckpt").is_file()
    command = [f"ckpt_path={place}"] if begun else [*words, f"run_dir={place}"]
    console.print("training a classifier, whose features samples are compared by")
    job = Job("classifier", ("ddiff.train", *command), folder / "classifier.txt")
    (ended,) = finished(engine, [job])
    trouble = None if ended.status == 0 else last_line(job.log).removeprefix("ddiff: ")
    return options, trouble


def _hydra(value: Any) -> str:
    return "null" if value is None else str(value).replace("True", "true").replace("False", "false")


def finished(engine: Engine, jobs: Sequence[Job]) -> list[Ended]:
    """The jobs once all have ended; one that is lost is submitted again, a few times."""
    tries = dict.fromkeys(jobs, TRIES)
    found: list[Ended] = []
    for job in jobs:
        engine.submit(job)
    while len(found) < len(jobs):
        for ended in engine.wait(1.0):
            tries[ended.job] -= 1
            if ended.status is None and tries[ended.job]:
                engine.submit(ended.job)
            else:
                found.append(ended)
    return found


def run(ready: Ready, engine: Engine) -> None:
    """Run every trial to the last rung that its variants reach. A failure is a row, no end."""
    for rung in range(ready.rungs):
        alive = set(ready.alive(rung))
        wanted = {v.training for v in ready.plan.variants if v.name in alive}
        due = [
            trial
            for trial in ready.trials
            if trial.training in wanted and not trial.failure and not trial.found(rung)
        ]
        if ready.rungs > 1:
            console.print(f"rung {rung + 1} of {ready.rungs}: {', '.join(sorted(alive))}")
        _run_all(ready, engine, due, rung)


def _run_all(ready: Ready, engine: Engine, due: list[Trial], rung: int) -> None:
    if not due:
        return
    by_job: dict[Job, Trial] = {}
    for trial in due:
        words = ("ddiff.study.trial", str(trial.folder), str(trial.steps[rung]))
        by_job[Job(trial.name, words, trial.folder / "log.txt")] = trial
    tries = dict.fromkeys(by_job, TRIES)
    running = dict(by_job)
    total = sum(trial.steps[rung] for trial in due)
    with progress("study", total) as meter:
        for job in by_job:
            engine.submit(job)
        while running:
            for ended in engine.wait(2.0):
                trial, job = by_job[ended.job], ended.job
                tries[job] -= 1
                if ended.status == 0 or trial.failure:
                    del running[job]
                elif tries[job]:
                    engine.submit(job)
                else:
                    why = f"ended {TRIES} times ({_ending(ended.status)}): {last_line(job.log)}"
                    write_json(trial.folder / FAILURE, {"why": why})
                    del running[job]
                if trial.failure:
                    console.print(f"failed      {trial.name}: {trial.failure}", markup=False)
            left = [(trial, min(trial.step_now(), trial.steps[rung])) for trial in running.values()]
            done = total - sum(trial.steps[rung] - step for trial, step in left)
            note = ", ".join(f"{t.name} {step}/{t.steps[rung]}" for t, step in left if step)
            meter(done, f"{len(due) - len(running)} of {len(due)} runs; {note}")


def _ending(status: int | None) -> str:
    if status is None:
        return "its machine was lost"
    if status == -9:
        return "killed by signal 9, as where memory is out"
    return f"by signal {-status}" if status < 0 else f"exit status {status}"


def cost_in_words(ready: Ready, slots: int) -> str:
    """An estimate of what is left to do: runs, time, disk."""
    mark = read_json(ready.folder / MARK)
    seconds = disk = 0.0
    left = 0
    for trial in ready.trials:
        done = [rung for rung in range(ready.rungs) if trial.found(rung)]
        if trial.failure or (ready.rungs - 1) in done:
            continue
        left += 1
        cost = Cost(**mark["costs"][trial.training])
        begun = trial.steps[done[-1]] if done else 0
        share = 1.0
        if ready.plan.race:
            share = work(len(ready.plan.variants), ready.plan.race.rungs, ready.plan.race.share)
        seconds += cost.load + cost.start + share * (trial.steps[-1] - begun) * cost.per_step
        disk += 2 * cost.state_bytes
        if metrics_for(ready.plan.measure):
            for variant in ready.plan.variants_of(trial.training):
                evaluations = mark["evaluations"].get(variant.name) or 0
                seconds += ready.plan.num_samples * evaluations * cost.forward
    busy = max(1, min(slots, left))
    return (
        f"{left} of {len(ready.trials)} runs to do, {busy} at a time: "
        f"about {duration(seconds / busy)}, {disk / 1e9:.2g} GB on the disk"
    )


@contextmanager
def held(folder: Path, engine: Engine) -> Iterator[None]:
    """The study's folder, for this process alone. A signal ends the runs, which save."""
    holder = lock(folder, "the study")

    def stop(signum: int, frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        raise Stopped(f"stopped by {name}; the same command continues in {folder}", signum)

    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        engine.close()
        for signum, handler in before.items():
            signal.signal(signum, handler)
        holder.release()

"""A study from its first run to its last figure. Everything that it knows is in its folder.

A start reads what is there, does what is missing, and repeats nothing.
"""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ddiff.config.validation import given_options
from ddiff.config.words import written
from ddiff.study.engines import Ended, Engine, Job
from ddiff.study.engines.base import as_they_end, most_tries, stopped_by
from ddiff.study.engines.children import last_line
from ddiff.study.figures import LOSSES
from ddiff.study.folder import FAILURE, MARK, TASK, Trial
from ddiff.study.preparing import Ready, by_features
from ddiff.system.console import console, progress
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import lock, read_json, write_json

# options of data that do not name the data
NOT_ITS_OWN = ("_target_", "batch_size", "seed", "num_workers")

# of a run: what a study has found in it
NOT_TAKEN = ("figures", "evaluations", "plans", "samples", "log.txt", TASK, FAILURE, ".lock")


@contextmanager
def held(folder: Path, engine: Engine) -> Iterator[None]:
    """The study's folder, for this process alone. A signal ends the runs, which save."""
    holder = lock(folder, "the study")
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with stopped_by(f"stopped by {{}}; the same command continues in {folder}", *signals):
        try:
            yield
        finally:
            engine.close()
            holder.release()


def run(ready: Ready, engine: Engine, retry: bool, insist: bool) -> None:
    """Run every trial to the last rung that its variants reach. A failure is a row, no end.

    retry: runs that have failed are tried again. insist: the deciding figure is that of the plan,
    or the study ends; otherwise the validation loss decides where that cannot be measured.
    """
    ready = _measurable(ready, engine, insist)
    for trial in ready.trials:
        assign(trial, ready.task(trial), retry)
    write_json(ready.folder / MARK, ready.mark())
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
        if due:
            _run_to(rung, due, engine, ready)


def take_runs(ready: Ready, other: Path) -> None:
    """Copy finished runs of the same trainings out of another study's folder, for trials that have
    not begun. Raises ConfigError where there is none for any of them."""
    there = {_trained(read_json(file)): file.parent for file in other.glob(f"*/seed_*/{TASK}")}
    fresh = [trial for trial in ready.trials if not trial.folder.exists()]
    taken = 0
    for trial in fresh:
        run = there.get(_trained(ready.task(trial)))
        if run and read_json(run / "metrics.json").get("step") == trial.steps[-1]:
            part = trial.folder.with_name(f".{trial.folder.name}")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(run, part, ignore=shutil.ignore_patterns(*NOT_TAKEN))
            write_json(part / TASK, ready.task(trial))  # another training there is refused
            part.rename(trial.folder)
            taken += 1
    if fresh and not taken:
        words = " ".join(ready.plan.trainings[0].words)
        raise ConfigError(f"trained: {other} has no finished run of {words}, seed {fresh[0].seed}")
    console.print(f"taken       {taken} of {len(ready.trials)} runs from {other}")


def _trained(task: dict[str, Any]) -> tuple[str, ...]:
    """Return what decides the weights of a run: its options, and its steps."""
    return (*sorted(_as_said(task)["train"]), str(task.get("steps")))


def _measurable(ready: Ready, engine: Engine, insist: bool) -> Ready:
    """The study, once the classifier that its figures need is trained; without one it may be
    decided by the validation loss."""
    plan, trouble = ready.plan, train_classifier(ready, engine)
    if not trouble:
        return ready
    console.print(f"note        no figures by features: {trouble}", markup=False)
    if not by_features(plan.decide):
        return ready
    loss = LOSSES[0]
    if insist or (len(plan.trainings) == 1 and len(plan.variants) > 1):
        raise DdiffError(
            f"decide: {plan.decide} needs a classifier of these data ({trouble}); decide={loss}, "
            "or extractor=inception for pictures, does not"
        )
    console.print(f"note        {loss} decides, in place of {plan.decide}", markup=False)
    measure = tuple(dict.fromkeys([loss, *plan.measure]))
    return replace(ready, plan=replace(plan, decide=loss, better="lower", measure=measure))


def train_classifier(ready: Ready, engine: Engine) -> str | None:
    """Train the classifier on the study's data, if one is needed and not there. Returns why it
    cannot be; None if it is."""
    place, first = ready.classifier, ready.plan.trainings[0]
    if place is None or (place / "metrics.json").is_file():
        return None
    data = OmegaConf.to_container(given_options("train", first.words)[0].data, resolve=False)
    assert isinstance(data, dict)
    words = ["experiment=classifier", f"data={first.choices['data']}"]
    words += [
        f"data.{name}={written(value)}"
        for name, value in data.items()
        if name not in NOT_ITS_OWN and "${" not in str(value)
    ]
    begun = (place / "checkpoints/last.ckpt").is_file()
    words.append(f"run_dir={place}")
    command = [*ready.plan.flags, *([f"ckpt_path={place}"] if begun else words)]
    console.print("training a classifier, whose features samples are compared by")
    job = Job("classifier", ("ddiff.train", *command), ready.folder / "classifier.txt")
    (ended,) = (one for some in as_they_end(engine, [job]) for one in some)
    return None if ended.status == 0 else last_line(job.log).removeprefix("ddiff: ")


def assign(trial: Trial, task: dict[str, Any], retry: bool) -> None:
    """Write a trial's task. Another training there is refused; what is measured otherwise than
    before is measured again."""
    file = trial.folder / TASK
    before = read_json(file)
    begun = (trial.folder / "checkpoints").is_dir() or trial.failure is not None
    for name in ("train", "steps"):
        if before and begun and _as_said(before)[name] != task[name]:
            raise ConfigError(
                f"out: {trial.folder} holds a run of another study ({name} {_said(before[name])}, "
                f"now {_said(task[name])}); give another out="
            )
    again = bool(before) and _measured(before) != _measured(task)
    if again:
        shutil.rmtree(trial.folder / "figures", ignore_errors=True)
    if again or retry:
        (trial.folder / FAILURE).unlink(missing_ok=True)
    if before != task:
        write_json(file, task)


def _as_said(task: dict[str, Any]) -> dict[str, Any]:
    """Return the task without the place of the user's own configs, which earlier versions had in
    its words."""
    words = {name: [w for w in task.get(name, ()) if not w.startswith("hydra.")]
             for name in ("train", "evaluate")}  # fmt: skip
    return {name: value for name, value in {**task, **words}.items() if name != "flags"}


def _measured(task: dict[str, Any]) -> dict[str, Any]:
    """The task without what only says which of its figures decides."""
    rest = {name: value for name, value in _as_said(task).items() if name != "decide"}
    return {**rest, "measure": sorted(task["measure"])}


def _said(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _run_to(rung: int, trials: list[Trial], engine: Engine, ready: Ready) -> None:
    """Run trials to a rung, with one display of progress for all."""
    jobs = {
        Job(
            trial.name,
            ("ddiff.study.trial", str(trial.folder), str(trial.steps[rung])),
            trial.folder / "log.txt",
        ): trial
        for trial in trials
    }

    def not_its_own(ended: Ended) -> bool:
        """Return True if a run was ended by something else than itself."""
        return ended.status != 0 and not jobs[ended.job].failure

    left = dict(jobs)
    total = sum(work_of(trial, rung, ready)[1] for trial in trials)
    with progress("study %", 100) as meter:
        for some in as_they_end(engine, list(jobs), not_its_own):
            for ended in some:
                trial = left.pop(ended.job)
                if not_its_own(ended):
                    why = f"ended {most_tries(ended)} times ({_ending(ended.status)})"
                    why += f": {last_line(ended.job.log)}"
                    write_json(trial.folder / FAILURE, {"why": why})
                if trial.failure:
                    console.print(f"failed      {trial.name}: {trial.failure}", markup=False)
            now = [work_of(trial, rung, ready) for trial in left.values()]
            done = total - sum(every - done for done, every, _ in now)
            note = ", ".join(said for _, _, said in now if said)
            note = f"{len(trials) - len(left)} of {len(trials)} runs; {note}"
            meter(round(100 * done / total, 1), note)


def work_of(trial: Trial, rung: int, ready: Ready) -> tuple[float, float, str]:
    """Estimate the seconds of a trial's work that are done, and of all of it; say where it is."""
    steps, a_step = trial.steps[rung], ready.costs[trial.training].per_step
    measuring = ready.measuring(trial.training)
    step, measured = min(trial.step_now(), steps), trial.measured(rung)
    done = step * a_step + sum(measuring.get(name, 0.0) for name in measured)
    said = f"{trial.name} {step}/{steps}" if step else ""
    if step == steps and measuring:
        said = f"{trial.name} measured {len(measured)} of {len(measuring)}"
    return done, steps * a_step + sum(measuring.values()), said


def _ending(status: int | None) -> str:
    if status is None:
        return "its machine was lost"
    if status == -9:
        return "killed by signal 9, as where memory is out"
    return f"by signal {-status}" if status < 0 else f"exit status {status}"

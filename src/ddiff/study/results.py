"""Results of a study, read from its folder alone: a row for each variant."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ddiff.study.figures import OF_TRAINING
from ddiff.study.folder import MARK, Cost, Trial
from ddiff.study.hindsight import Hindsight, hindsight, on_the_way
from ddiff.study.statistics import Difference, difference
from ddiff.system.errors import DdiffError
from ddiff.system.files import read_json

Seeds = dict[int, float]
Rungs = list[dict[str, Seeds]]  # of a variant: rung -> figure -> seed -> value


@dataclass(frozen=True)
class Row:
    """One variant: how far it came, what was measured there, and how it compares."""

    name: str
    options: str
    step: int  # at which its figures were measured; 0: none were
    steps: int  # of its whole training
    compared_at: int  # the step of its figures that are compared: where the first one stopped, too
    paused: bool
    evaluations: int | None  # of the net, for a sample
    step_seconds: float | None  # as calibrated
    figures: Mapping[str, Seeds]
    differences: Mapping[str, Difference | None]  # from the first variant
    failures: Mapping[int, str]  # by seed
    refused: str | None  # why it cannot run at all


@dataclass(frozen=True)
class Results:
    """Everything that the folder of a study says."""

    folder: Path
    mark: Mapping[str, Any]  # study.json
    rows: Sequence[Row]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def decide(self) -> str:
        return self.mark["decide"]

    @cached_property
    def trials(self) -> list[Trial]:
        return trials_in(self.folder, self.mark)

    @cached_property
    def runs(self) -> list[str]:
        """The runs that have begun, without the classifier that measures them."""
        return [str(t.folder) for t in self.trials if (t.folder / "config.yaml").is_file()]

    @cached_property
    def done(self) -> int:
        """The number of runs that have their last figures, have failed, or are paused."""
        on = {
            variant["training"]
            for variant, row in zip(self.mark["variants"], self.rows, strict=True)
            if not row.paused
        }
        left = [t for t in self.trials if not t.failure and not t.found(-1) and t.training in on]
        return len(self.trials) - len(left)

    def as_races(self) -> list[Hindsight]:
        """Races in hindsight, where the study was none and its figure was logged on the way."""
        whole = self.done == len(self.trials) and not self.mark["race"]
        if not whole or self.decide not in OF_TRAINING:
            return []
        curves: dict[str, dict[int, Any]] = {}
        for variant, row in zip(self.mark["variants"], self.rows, strict=True):
            found = {
                trial.seed: on_the_way(trial.folder, self.decide, row.steps)
                for trial in self.trials
                if trial.training == variant["training"] and row.step
            }
            if known := {seed: values for seed, values in found.items() if values is not None}:
                curves[row.name] = known
        return hindsight(curves, self.mark["better"])


def read(folder: Path) -> Results:
    """Read a study's folder. Raises DdiffError where it is none."""
    mark = read_json(folder / MARK)
    if not mark:
        raise DdiffError(f"{folder} holds no study yet (no {MARK})")
    trials = trials_in(folder, mark)
    found = {variant["name"]: _figures(variant, trials, mark) for variant in mark["variants"]}
    reached = {
        name: max((i for i, at in enumerate(rungs) if at[mark["decide"]]), default=-1)
        for name, rungs in found.items()
    }
    # one unit a column: parts of the first one's figure only where no variant's is 0 or below
    positive = {
        figure: all(v > 0 for rungs in found.values() for at in rungs for v in at[figure].values())
        for figure in mark["measure"]
    }
    first = mark["variants"][0]["name"]
    rows = []
    for variant in mark["variants"]:
        name, training = variant["name"], variant["training"]
        steps, cost = mark["steps"].get(training, [0]), mark["costs"].get(training)
        rung, common = reached[name], min(reached[name], reached[first])
        differences = {
            figure: difference(
                found[first][common][figure],
                found[name][common][figure],
                max(1, len(mark["variants"]) - 1),
                mark["confidence"],
                positive[figure],
            )
            for figure in mark["measure"]
            if name != first and common >= 0
        }
        rows.append(
            Row(
                name=name,
                options=shlex.join(variant["said"]),
                step=steps[rung] if rung >= 0 else 0,
                steps=steps[-1],
                compared_at=steps[common] if common >= 0 else 0,
                paused=0 <= rung < max(reached.values()),
                evaluations=mark["evaluations"].get(name),
                step_seconds=Cost(**cost).per_step if cost else None,
                figures=found[name][rung] if rung >= 0 else {},
                differences=differences,
                failures={
                    t.seed: t.failure for t in trials if t.training == training and t.failure
                },
                refused=mark["refused"].get(name),
            )
        )
    return Results(folder, mark, rows)


def _figures(variant: Mapping[str, Any], trials: Sequence[Trial], mark: Mapping[str, Any]) -> Rungs:
    """The figures of a variant at every rung that it has reached."""
    rungs = len(next(iter(mark["steps"].values()), [0]))
    found: Rungs = [{figure: {} for figure in mark["measure"]} for _ in range(rungs)]
    for trial in (trial for trial in trials if trial.training == variant["training"]):
        for rung in range(rungs):
            here = (trial.found(rung) or {}).get("variants", {}).get(variant["name"], {})
            for figure, value in here.get("figures", {}).items():
                found[rung][figure][trial.seed] = value
    return found


def trials_in(folder: Path, mark: Mapping[str, Any]) -> list[Trial]:
    return [
        Trial(training, seed, folder / training / f"seed_{seed}", tuple(steps))
        for training, steps in mark["steps"].items()
        for seed in mark["seeds"]
    ]

"""Everything that a report says, before it is written in one form or another."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import TypeVar

from ddiff.pages.report.configs import Difference, Group, grouped
from ddiff.pages.report.figures import (
    TRAIN_LOSS,
    VAL_LOSS,
    Column,
    Point,
    Series,
    averaged,
    cells_of,
    columns_of,
    over_evaluations,
    over_lengths,
    over_training,
)
from ddiff.pages.report.records import Record, read_run
from ddiff.system.errors import DdiffError

SIGNS = ("metrics.json", "tensorboard", "environment.json", "checkpoints", "samples", "evaluations")
MOST_COLUMNS = 12  # figures in one table; others are listed below it
T = TypeVar("T")


@dataclass(frozen=True)
class Curves:
    """A loss or a figure over training, or over the lengths of an average: a line for each run that
    has one."""

    name: str
    title: str
    note: str
    lines: list[Series | None]


@dataclass(frozen=True)
class Preface:
    """The verdicts of a study, which stand above its report."""

    title: str
    lines: Sequence[str]
    table: tuple[list[str], list[list[str]]]  # names of columns, rows; **text** is bold


@dataclass(frozen=True)
class Comparison:
    title: str
    groups: list[Group]
    differences: list[Difference]
    columns: list[Column]
    troubles: list[str]  # a line each: what is broken, unfinished or odd
    shared: list[str]  # what several groups all changed of their recipes
    prefaces: tuple[Preface, ...] = ()

    def led_by(self, *prefaces: Preface) -> "Comparison":
        return replace(self, prefaces=prefaces)

    @cached_property
    def runs(self) -> list[Record]:
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def group_of(self) -> list[int]:
        """The number of each run's group."""
        return [i for i, group in enumerate(self.groups) for _ in group.runs]

    def by_group(self, of_runs: Iterable[T]) -> list[list[T]]:
        """Split a list with an item for each run into one list for each group."""
        rest = iter(of_runs)
        return [[next(rest) for _ in group.runs] for group in self.groups]

    def means(self, curves: Curves) -> list[Series | None]:
        """A line for each group, the mean over its runs; None for a group without one."""
        of_groups = self.by_group(curves.lines)
        return [averaged([one for one in lines if one is not None]) for lines in of_groups]

    @cached_property
    def cells(self) -> list[list[Point | None]]:
        """Points by column, then by run."""
        return [cells_of([run.points for run in self.runs], column) for column in self.columns]

    @cached_property
    def main(self) -> list[int]:
        """The columns of the first table, MOST_COLUMNS at most: those that most groups fill."""
        filled = [sum(map(any, self.by_group(cells))) for cells in self.cells]
        ranked = sorted(range(len(self.columns)), key=lambda i: -filled[i])
        return sorted(ranked[:MOST_COLUMNS])

    @cached_property
    def labels(self) -> list[str]:
        """Labels of the runs: the group's label, and the seed if the group has several runs."""
        labels = [
            group.label if len(group.runs) == 1 else f"{group.label} seed {run.seed}"
            for group in self.groups
            for run in group.runs
        ]
        times = Counter(labels)
        pairs = zip(labels, self.runs, strict=True)
        return [f"{label} {r.path.name}" if times[label] > 1 else label for label, r in pairs]

    @cached_property
    def curves(self) -> list[Curves]:
        """Validation losses first, for every run has them at most steps; the training's last."""
        found = []
        for column, cells in zip(self.columns, self.cells, strict=True):
            pairs = zip(self.runs, cells, strict=True)
            lines = [over_evaluations(run.points, cell) if cell else None for run, cell in pairs]
            found.append(Curves(column.first.name, column.title, column.protocol, lines))
        found.sort(key=lambda curves: curves.name != VAL_LOSS)
        logged = [(run.curves.get(TRAIN_LOSS), run.images_per_step) for run in self.runs]
        lines = [over_training(curve, images) if curve else None for curve, images in logged]
        note = (
            "as the run's own sampler of timesteps drew it: samplers differ, so compare with care"
        )
        found.append(Curves(TRAIN_LOSS, TRAIN_LOSS, note, lines))
        return [
            curves for curves in found if any(line and len(line.steps) > 1 for line in curves.lines)
        ]

    @cached_property
    def lengths(self) -> list[Curves]:
        """Figures over the length of the average of the weights (`weights=0.05`)."""
        found = [
            Curves(
                column.first.name,
                column.title,
                column.protocol,
                [over_lengths(run.points, column) for run in self.runs],
            )
            for column in self.columns
        ]
        return [curves for curves in found if any(self.means(curves))]


def compare(places: Sequence[str], title: str | None = None) -> Comparison:
    """Reads the runs at `places`. Raises DdiffError where none can be read."""
    records, troubles = [], []
    for path in find_runs(places):
        try:
            record = read_run(path)
        except DdiffError as error:
            troubles.append(f"{path}: left out: {error}")
            continue
        records.append(record)
        troubles += [f"{path}: {trouble}" for trouble in record.troubles]
    if not records:
        raise DdiffError(f"no run can be read: {'; '.join(troubles)}")
    groups, differences, shared = grouped(records)
    for group in groups:
        seeds = Counter(run.seed for run in group.runs)
        again = [str(seed) for seed, times in seeds.items() if times > 1]
        if again:
            troubles.append(f"{group.label}: seed {', '.join(again)} more than once")
    names = dict.fromkeys(str(record.options.get("name", "run")) for record in records)
    columns = columns_of([run.points for group in groups for run in group.runs])
    return Comparison(title or ", ".join(names), groups, differences, columns, troubles, shared)


def find_runs(places: Sequence[str]) -> list[Path]:
    """The runs at and below each place: a run, a folder of runs or of sweeps, or a glob.

    In order of their paths, each once. Raises DdiffError for a place that holds none.
    """
    found: dict[Path, Path] = {}
    for place in places:
        paths = sorted(map(Path, glob(place))) if has_magic(place) else [Path(place)]
        if not any(path.is_dir() for path in paths):
            raise DdiffError(f"runs: {place}: no such folder")
        runs = [run for path in paths for run in _below(path)]
        if not runs:
            raise DdiffError(f"runs: {place}: no run in it (config.yaml with metrics.json, ...)")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _below(path: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(path):
        if "config.yaml" in files and not {*names, *files}.isdisjoint(SIGNS):
            names.clear()
            yield Path(folder)
        names[:] = sorted(name for name in names if not name.startswith("."))

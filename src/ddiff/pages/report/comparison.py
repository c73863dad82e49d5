"""Everything that a report says, before it is written in one form or another."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ddiff.pages.report.columns import Cell, Column, cells_of, columns_of
from ddiff.pages.report.configs import Difference, Group, grouped
from ddiff.pages.report.finding import find_runs
from ddiff.pages.report.records import Record, read_run
from ddiff.system.errors import DdiffError

MOST_COLUMNS = 12  # figures in one table; others are listed below it


@dataclass(frozen=True)
class Comparison:
    title: str
    groups: list[Group]
    differences: list[Difference]
    columns: list[Column]
    troubles: list[str]  # a line each: what is broken, unfinished or odd
    shared: list[str]  # what several groups all changed of their recipes

    @cached_property
    def runs(self) -> list[Record]:
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def cells(self) -> list[list[Cell | None]]:
        """By column and run."""
        return [cells_of(self.runs, column) for column in self.columns]

    @cached_property
    def main(self) -> list[int]:
        """The columns of the first table, MOST_COLUMNS at most: those that most groups fill."""

        def filled(i: int) -> int:
            of_run = [g for g, group in enumerate(self.groups) for _ in group.runs]
            cells = zip(of_run, self.cells[i], strict=True)
            return len({group for group, cell in cells if cell is not None})

        ranked = sorted(range(len(self.columns)), key=lambda i: -filled(i))
        return sorted(ranked[:MOST_COLUMNS])

    @cached_property
    def labels(self) -> list[str]:
        """Of each run: its group's, and its seed where there are several."""
        labels = [
            group.label if len(group.runs) == 1 else f"{group.label} seed {run.seed}"
            for group in self.groups
            for run in group.runs
        ]
        times = Counter(labels)
        pairs = zip(labels, self.runs, strict=True)
        return [f"{label} {r.path.name}" if times[label] > 1 else label for label, r in pairs]


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
    return Comparison(
        title=title or ", ".join(names),
        groups=groups,
        differences=differences,
        columns=columns_of([run for group in groups for run in group.runs]),
        troubles=troubles,
        shared=shared,
    )

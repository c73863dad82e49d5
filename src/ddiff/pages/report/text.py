"""The report as text: Markdown for a README, and tables for the terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddiff.pages.report.comparison import MOST_COLUMNS, Comparison
from ddiff.pages.report.configs import ABSENT, Group
from ddiff.pages.report.figures import Point, spread
from ddiff.system.console import console, duration, show_table

CAPTIONS = {
    "curves.png": "Learning curves: the mean over seeds within one standard deviation",
    "quality.png": "Every evaluated figure over training",
    "averages.png": "Every evaluated figure over the length of the average (`weights=0.05`)",
    "pareto.png": "Quality against cost: the line is the Pareto front, what it beats is dim",
    "samples.png": "Samples",
}
CLOCK = (
    "Wall-clock is time inside training processes (validation, checkpoints and samples included), "
    "from just before the first step; pauses before a resumption, and steps done again, are not "
    "counted."
)
TOP = 15  # operators of a profile, by what they gained or lost


def number(value: float | None) -> str:
    """Four digits that count."""
    if value is None:
        return ABSENT
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and a row for each group of seeds."""
    header = ["runs", "seeds", "steps", *(comparison.columns[i].title for i in comparison.main)]
    header += ["training", "samples/s", "peak MB", "device"]
    figures = [comparison.by_group(comparison.cells[i]) for i in comparison.main]
    return header, [
        _row(group, [cells[g] for cells in figures]) for g, group in enumerate(comparison.groups)
    ]


def _row(group: Group, figures: Sequence[Sequence[Point | None]]) -> list[str]:
    """Cells of a group: its seeds, steps done (and of how many), figures, costs and devices."""
    runs = group.runs
    steps = [f"{r.step}" if r.step >= r.max_steps else f"{r.step} of {r.max_steps}" for r in runs]
    memory = _mean(run.memory_mb for run in runs)
    seconds = _mean(run.seconds for run in runs)
    return [
        group.label,
        ", ".join(str(run.seed) for run in runs),
        ", ".join(dict.fromkeys(steps)),
        *map(_quality, figures),
        ABSENT if seconds is None else duration(seconds),
        number(_mean(run.samples_per_second for run in runs)),
        ABSENT if memory is None else f"{memory:.0f}",
        ", ".join(dict.fromkeys(run.device or ABSENT for run in runs)),
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return spread(known)[0] if known else None


def _quality(cells: Sequence[Point | None]) -> str:
    """The mean and its spread over seeds, or one figure and its interval."""
    points = [cell for cell in cells if cell is not None]
    values = [point.value for point in points if point.value is not None]
    if not values:
        return ABSENT
    mean, std = spread(values)
    if std is not None:
        return f"{number(mean)} ± {std:.2g} ({len(values)})"
    low, high = points[0].low, points[0].high
    if low is None or high is None:
        return number(mean)
    return f"{number(mean)} [{number(low)}, {number(high)}]"


@dataclass(frozen=True)
class Table:
    """Numbers of two profiles: names, before and after."""

    title: str
    rows: list[tuple[str, float | None, float | None]]

    @property
    def header(self) -> list[str]:
        return [self.title, "before", "after", "difference"]

    @property
    def words(self) -> list[list[str]]:
        """The rows as text; in the difference, `-1.2 (-12%)`, what is missing counts as nothing."""
        rows = []
        for name, before, after in self.rows:
            change = (after or 0.0) - (before or 0.0)
            share = f" ({change / before:+.0%})" if before and after else ""
            said = [ABSENT if n is None else number(round(n, 4)) for n in (before, after)]
            rows.append([name, *said, f"{change:+.3g}{share}"])
        return rows


@dataclass(frozen=True)
class Change:
    """One profile against that of the first run which has one of its kind."""

    title: str
    tables: list[Table]


def changes(comparison: Comparison) -> list[Change]:
    """Changes between profiles: phase by phase, operator by operator, and in memory."""
    found, first = [], {}
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        for kind, after in run.profiles.items():
            other, before = first.setdefault(kind, (label, after))
            if before is not after:
                found.append(Change(f"{kind}: {other} → {label}", _tables(before, after)))
    return found


def _tables(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Table]:
    both = before, after
    phases = _paired(*({name: one["ms"] for name, one in p["phases"].items()} for p in both))
    for name in ("mean", "p50", "p90", "p99"):
        phases.append((f"step, {name}", before["step_ms"][name], after["step_ms"][name]))
    tables = [Table("phase, ms a step", phases)]
    if "operators" in before and "operators" in after:
        key = "device_ms" if after["device"] == "cuda" else "ms"
        totals: list[dict[str, float]] = [{}, {}]  # over all shapes and phases
        for total, profile in zip(totals, both, strict=True):
            for one in profile["operators"]:
                total[one["name"]] = total.get(one["name"], 0.0) + one[key]
        found = _paired(*totals)
        found.sort(key=lambda row: -abs((row[2] or 0) - (row[1] or 0)))
        tables.append(Table("operator, own ms a recorded step", found[:TOP]))
        held = _paired(*(profile["memory_mb"]["at_peak"] for profile in both))
        held.append(("peak", before["memory_mb"]["peak"], after["memory_mb"]["peak"]))
        tables.append(Table("memory at its peak, MB", held))
    return tables


def _paired(before: Mapping[str, float], after: Mapping[str, float]) -> list[Any]:
    """Rows (name, before, after), None for what is not there."""
    return [(name, before.get(name), after.get(name)) for name in {**before, **after}]


def print_tables(comparison: Comparison) -> None:
    """A row for each group of seeds, the protocols below, and what is broken."""
    show_table(*table(comparison))
    for i in comparison.main:
        column = comparison.columns[i]
        console.print(f"{column.title}: {column.protocol}", markup=False)
    if more := len(comparison.columns) - len(comparison.main):
        console.print(
            f"more        {more} figures that fewer runs have are in the page and the text"
        )
    if comparison.shared:
        console.print(f"all runs    {', '.join(comparison.shared)}", markup=False)
    for change in changes(comparison):
        console.print(f"\nprofile     {change.title}", markup=False)
        for one in change.tables:
            show_table(one.header, one.words)
    for trouble in comparison.troubles:
        console.print(f"note        {trouble}", markup=False)


def markdown(comparison: Comparison, pictures: Sequence[Path], page: str) -> str:
    groups, runs = len(comparison.groups), len(comparison.runs)
    apart = f" in {_count(groups, 'group')} that differ in more than the seed"
    parts = [
        f"# {_cell(comparison.title)}",
        f"{_count(runs, 'run')}{apart if runs > groups else ''}; to explore them, open `{page}`.",
    ]
    for preface in comparison.prefaces:
        parts += [f"## {_cell(preface.title)}", *map(_cell, preface.lines), _table(*preface.table)]
    if comparison.shared:
        parts.append(f"All of them: {', '.join(f'`{_cell(w)}`' for w in comparison.shared)}.")
    parts += [
        _table(*table(comparison)),
        *_more_figures(comparison),
        "A figure is the newest weights'; ± is one standard deviation over (n) seeds; [a, b] holds "
        f"95%. {CLOCK} Peak memory is the allocator's on a GPU, the whole process's on a CPU.",
    ]
    if comparison.columns:
        lines = [f"- **{_cell(c.title)}**: {_cell(c.protocol)}" for c in comparison.columns]
        parts += ["## How it was measured", "\n".join(lines)]
    for path in pictures:
        caption = CAPTIONS[path.name]
        parts.append(f"![{caption}]({path.parent.name}/{path.name})\n\n*{caption}.*")
    parts += _lengths(comparison)
    parts += _differences(comparison)
    for change in changes(comparison):
        parts.append(f"## What changed in the profile: {_cell(change.title)}")
        parts += [_table(one.header, one.words) for one in change.tables]
    if comparison.troubles:
        parts.append("## What is broken or missing")
        parts.append("\n".join(f"- {_cell(trouble)}" for trouble in comparison.troubles))
    return "\n\n".join(parts) + "\n"


def _lengths(comparison: Comparison) -> list[str]:
    """Tables of the figures at several lengths of the average, a row for each group."""
    parts = []
    for curves in comparison.lengths:
        pairs = zip(comparison.groups, comparison.means(curves), strict=True)
        lines = {group.label: dict(zip(m.steps, m.values, strict=True)) for group, m in pairs if m}
        lengths = sorted({length for line in lines.values() for length in line})
        rows = [[label, *(number(line.get(n)) for n in lengths)] for label, line in lines.items()]
        parts.append(f"## {_cell(curves.title)} over the length of the average")
        parts.append(_table(["runs", *(f"{length:g}" for length in lengths)], rows))
    return parts


def _more_figures(comparison: Comparison) -> list[str]:
    """The columns that the table leaves out: each with the groups that have it, and its value."""
    lines = []
    for i, column in enumerate(comparison.columns):
        if i not in comparison.main:
            pairs = zip(comparison.groups, comparison.by_group(comparison.cells[i]), strict=True)
            values = [(group.label, _quality(cells)) for group, cells in pairs if any(cells)]
            lines.append((column.title, values))
    return [_folded("more figure", lines)] if lines else []


def _differences(comparison: Comparison) -> list[str]:
    chosen = [d for d in comparison.differences if not d.implied]
    if not chosen:
        return []
    title, labels = "## What differs in the configs", [g.label for g in comparison.groups]
    if len(labels) <= MOST_COLUMNS:
        rows = [[" = ".join(d.names), *(str(value) for value in d.values)] for d in chosen]
        return [title, _table(["option", *labels], rows)]
    lines = []  # too wide for a table: the groups that share a value, by value
    for difference in chosen:
        found: dict[str, list[str]] = {}
        for value, label in zip(difference.values, labels, strict=True):
            found.setdefault(str(value), []).append(label)
        values = [(value, f"({', '.join(of)})") for value, of in found.items()]
        lines.append((" = ".join(difference.names), values))
    return [title, _folded("option", lines)]


def _folded(noun: str, lines: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """A list, folded away: `- **name**: label value; label value`."""
    items = [
        f"- **{_cell(name)}**: {'; '.join(f'{_cell(label)} {_cell(value)}' for label, value in of)}"
        for name, of in lines
    ]
    title = _count(len(items), noun)
    return "\n".join([f"<details><summary>{title}</summary>", "", *items, "", "</details>"])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Text that neither ends a cell nor begins a tag."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

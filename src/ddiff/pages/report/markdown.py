"""The report as text: Markdown for a README, and a table for the terminal."""

from collections.abc import Sequence
from pathlib import Path

from ddiff.pages.report.columns import Cell, spread
from ddiff.pages.report.comparison import MOST_COLUMNS, Comparison
from ddiff.pages.report.configs import ABSENT, Difference, Group
from ddiff.pages.report.looks import duration, number
from ddiff.pages.report.profiles import changes, words
from ddiff.pages.report.records import Record

CAPTIONS = {
    "curves.png": "Learning curves: the mean over seeds within one standard deviation",
    "quality.png": "Every evaluated figure over training",
    "pareto.png": "Quality against cost: the line is the Pareto front, what it beats is dim",
    "samples.png": "Samples",
}
CLOCK = (
    "Wall-clock is time inside training processes (validation, checkpoints and samples included), "
    "from just before the first step; pauses before a resumption, and steps done again, are not "
    "counted."
)


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and a row for each group of seeds."""
    header = ["runs", "seeds", "steps", *(comparison.columns[i].title for i in comparison.main)]
    header += ["training", "samples/s", "peak MB", "device"]
    rows, at = [], 0
    for group in comparison.groups:
        cells = [comparison.cells[i][at : at + len(group.runs)] for i in comparison.main]
        at += len(group.runs)
        row = [group.label, seeds(group), steps(group), *map(quality, cells)]
        rows.append([*row, *cost(group.runs)])
    return header, rows


def seeds(group: Group) -> str:
    return ", ".join(str(run.seed) for run in group.runs)


def steps(group: Group) -> str:
    """Steps done, and of how many where not all were."""
    said = [f"{r.step}" if r.step >= r.max_steps else f"{r.step} of {r.max_steps}"
            for r in group.runs]  # fmt: skip
    return ", ".join(dict.fromkeys(said))


def quality(cells: Sequence[Cell | None]) -> str:
    """The mean and its spread over seeds, or one figure and its interval."""
    figures = [cell.figure for cell in cells if cell is not None]
    values = [figure.value for figure in figures if figure.value is not None]
    if not values:
        return ABSENT
    mean, std = spread(values)
    if std is not None:
        return f"{number(mean)} ± {std:.2g} ({len(values)})"
    figure = figures[0]
    if figure.low is None or figure.high is None:
        return number(mean)
    return f"{number(mean)} [{number(figure.low)}, {number(figure.high)}]"


def cost(runs: Sequence[Record]) -> list[str]:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return spread(known)[0] if known else None

    memory = mean([run.memory_mb for run in runs])
    return [
        duration(mean([run.seconds for run in runs])),
        number(mean([run.samples_per_second for run in runs])),
        ABSENT if memory is None else f"{memory:.0f}",
        ", ".join(dict.fromkeys(device(run) for run in runs)),
    ]


def device(run: Record) -> str:
    name = run.environment.get("device_name") or run.environment.get("device")
    return str(name) if name else ABSENT


def markdown(comparison: Comparison, pictures: Sequence[Path], page: str) -> str:
    groups, runs = len(comparison.groups), len(comparison.runs)
    header, rows = table(comparison)
    several = any(len(group.runs) > 1 for group in comparison.groups)
    parts = [
        f"# {_cell(comparison.title)}",
        f"{_count(runs, 'run')}"
        + (f" in {_count(groups, 'group')} that differ in more than the seed" if several else "")
        + f"; to explore them, open `{page}`.",
        *([f"All of them: {', '.join(f'`{_cell(word)}`' for word in comparison.shared)}."]
          if comparison.shared else []),
        _table(header, rows),
        *_more_figures(comparison),
        "A figure is the newest weights'; ± is one standard deviation over (n) seeds; [a, b] holds "
        f"95%. {CLOCK} Peak memory is the allocator's on a GPU, the whole process's on a CPU.",
        *_protocols(comparison),
        *(f"![{CAPTIONS[p.name]}]({p.parent.name}/{p.name})\n\n*{CAPTIONS[p.name]}.*"
          for p in pictures),
        *_differences(comparison),
        *_profiles(comparison),
    ]  # fmt: skip
    if comparison.troubles:
        parts.append("## What is broken or missing")
        parts.append("\n".join(f"- {_cell(trouble)}" for trouble in comparison.troubles))
    return "\n\n".join(parts) + "\n"


def _more_figures(comparison: Comparison) -> list[str]:
    """The columns that the table leaves out: each with the groups that have it, and its value."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for i, column in enumerate(comparison.columns):
        if i in comparison.main:
            continue
        at, values = 0, []
        for group in comparison.groups:
            cells = comparison.cells[i][at : at + len(group.runs)]
            at += len(group.runs)
            if any(cell is not None for cell in cells):
                values.append((group.label, quality(cells)))
        found.append((column.title, values))
    return [_folded("more figure", found)] if found else []


def _folded(noun: str, lines: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """A list, folded away: `- **name**: label value; label value`."""
    items = [
        f"- **{_cell(name)}**: {'; '.join(f'{_cell(label)} {_cell(value)}' for label, value in of)}"
        for name, of in lines
    ]
    title = _count(len(items), noun)
    return "\n".join([f"<details><summary>{title}</summary>", "", *items, "", "</details>"])


def _protocols(comparison: Comparison) -> list[str]:
    if not comparison.columns:
        return []
    lines = [f"- **{_cell(c.title)}**: {_cell(c.protocol)}" for c in comparison.columns]
    return ["## How it was measured", "\n".join(lines)]


def _differences(comparison: Comparison) -> list[str]:
    chosen = [d for d in comparison.differences if not d.implied]
    if not chosen:
        return []
    title, labels = "## What differs in the configs", [g.label for g in comparison.groups]
    if len(labels) > MOST_COLUMNS:  # too wide for a table: the groups that share a value, by value
        lines = [(" = ".join(d.names), _by_value(d, labels)) for d in chosen]
        return [title, _folded("option", lines)]
    rows = [[" = ".join(d.names), *(str(value) for value in d.values)] for d in chosen]
    return [title, _table(["option", *labels], rows)]


def _by_value(difference: Difference, labels: Sequence[str]) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for value, label in zip(difference.values, labels, strict=True):
        found.setdefault(str(value), []).append(label)
    return [(value, f"({', '.join(of)})") for value, of in found.items()]


def _profiles(comparison: Comparison) -> list[str]:
    parts = []
    for change in changes(comparison):
        parts.append(f"## What changed in the profile: {_cell(change.title)}")
        parts += [_table(*words(one)) for one in change.tables]
    return parts


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Text that neither ends a cell nor begins a tag."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

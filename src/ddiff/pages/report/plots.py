"""The pictures of a report: learning curves, quality over training, quality against cost."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ddiff.pages.plotting import new_figure, pixels, styled
from ddiff.pages.report.columns import COSTS, VAL_LOSS, Column, costs, front, measured, sampling
from ddiff.pages.report.comparison import Comparison
from ddiff.pages.report.looks import colour, dashes
from ddiff.pages.report.records import Record
from ddiff.pages.report.series import Series, averaged, of_figure, of_scalar
from ddiff.pages.view.pictures import save_png

AXES = {"steps": "optimiser steps", "seconds": "training, seconds", "images": "images seen"}
Lines = list[Series | None]  # of each group
MOST = 5  # rows of one picture


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """curves.png, quality.png and pareto.png, those that have something to show."""
    drawn = []
    losses = [("train/loss (as sampled)", _means(comparison, "train/loss"))]
    figures = []
    for column in comparison.columns:
        row = column.title, _means(comparison, column)
        (losses if column.figure.name == VAL_LOSS else figures).append(row)
    for name, rows in (("curves.png", losses), ("quality.png", figures)):
        rows = [row for row in rows if any(line and len(line.steps) > 1 for line in row[1])][:MOST]
        if rows:
            drawn.append(save_png(_curves(comparison, rows), folder / name))
    panels = _panels(comparison)
    if panels:
        drawn.append(save_png(_pareto(comparison, panels), folder / "pareto.png"))
    return drawn


def _means(comparison: Comparison, what: str | Column) -> Lines:
    """A line for each group, over its seeds."""

    def line(record: Record) -> Series | None:
        if isinstance(what, str):
            return of_scalar(record, what)
        cell = comparison.cells[comparison.columns.index(what)][comparison.runs.index(record)]
        return None if cell is None else of_figure(record, cell)

    lines = [[line(run) for run in group.runs] for group in comparison.groups]
    return [averaged([one for one in group if one is not None]) for group in lines]


def _curves(comparison: Comparison, rows: Sequence[tuple[str, Lines]]) -> np.ndarray:
    used = [i for i in range(len(comparison.groups)) if any(lines[i] for _, lines in rows)]
    figure, grid = _figure(len(rows), len(AXES), len(used))
    for panels, (label, lines) in zip(grid, rows, strict=True):
        for panel, axis in zip(panels, AXES, strict=True):
            for group in used:
                _line(panel, lines[group], axis, group)
            _log_if_wide(panel, [line.values for line in lines if line])
            _labelled(panel, AXES[axis], label if axis == "steps" else "")
    return _finished(figure, comparison, used)


def _line(panel: Any, line: Series | None, axis: str, group: int) -> None:
    if line is None or not np.isfinite(line.over(axis)).any():
        return
    x, y = line.over(axis), line.values
    marker = "o" if len(x) <= 30 else None
    style = (0, dashes(group)) if dashes(group) else "-"
    panel.plot(x, y, color=colour(group), linestyle=style, linewidth=1.5, marker=marker, ms=3)
    if np.isfinite(line.low).any():
        panel.fill_between(x, line.low, line.high, color=colour(group), alpha=0.15, linewidth=0)


def _labelled(panel: Any, across: str, up: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    styled(panel, up)
    panel.set_xlabel(across, fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _brief(x)))
    if panel.get_yscale() == "log":
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _brief(y)))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _brief(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _log_if_wide(panel: Any, values: Sequence[np.ndarray]) -> None:
    flat = np.concatenate([np.ravel(v) for v in values])
    flat = flat[np.isfinite(flat)]
    if len(flat) and 0 < flat.min() * 8 < flat.max():
        panel.set_yscale("log")


Points = list[tuple[int, float, float]]  # group, cost, quality


def _panels(comparison: Comparison) -> dict[tuple[Column, str], Points]:
    """What there is to weigh: evaluated figures, or validation losses where none was."""
    known = [c for c in comparison.columns if c.figure.better]
    chosen = [c for c in known if c.figure.name != VAL_LOSS] or known
    panels = {(c, cost): weighed(comparison, c, cost) for c in chosen[:MOST] for cost in COSTS}
    return {key: points for key, points in panels.items() if len({p[1] for p in points}) > 1}


def weighed(comparison: Comparison, column: Column, cost: str) -> Points:
    """Every evaluation, the mean over a group's seeds of what is alike in step and sampling."""
    alike: dict[tuple[int, int | None, str], list[tuple[float, float]]] = {}
    for group, members in enumerate(comparison.groups):
        for run in members.runs:
            for evaluation in measured(run):
                paid = costs(run, evaluation)[cost]
                for figure in evaluation.figures:
                    key = figure.name, figure.protocol_id
                    if key == column.key and paid is not None and figure.value is not None:
                        place = group, evaluation.step, sampling(evaluation)
                        alike.setdefault(place, []).append((paid, figure.value))
    return [(group, *np.mean(pairs, axis=0)) for (group, _, _), pairs in alike.items()]


def _pareto(comparison: Comparison, panels: Mapping[tuple[Column, str], Points]) -> np.ndarray:
    """A row for each figure, a column for each cost."""
    columns = list(dict.fromkeys(column for column, _ in panels))
    paid_in = [cost for cost in COSTS if any(cost == other for _, other in panels)]
    used = sorted({group for points in panels.values() for group, _, _ in points})
    figure, grid = _figure(len(columns), len(paid_in), len(used))
    for panel, key in zip(grid.flat, product(columns, paid_in), strict=True):
        if key in panels:
            _weigh(panel, panels[key], key[0].figure.better or "lower")
            _labelled(panel, COSTS[key[1]], key[0].title)
        else:
            panel.set_axis_off()
    return _finished(figure, comparison, used)


def _weigh(panel: Any, points: Points, better: str) -> None:
    on = front([(paid, quality) for _, paid, quality in points], better)
    for (group, paid, quality), stands in zip(points, on, strict=True):
        look = {"ms": 6, "alpha": 1} if stands else {"ms": 4, "alpha": 0.3}
        panel.plot(paid, quality, "o", color=colour(group), mew=0, **look)
    best = sorted((paid, q) for (_, paid, q), stands in zip(points, on, strict=True) if stands)
    panel.step(*zip(*best, strict=True), where="post", color="#555c68", lw=1, zorder=1.5)
    _log_if_wide(panel, [np.array([quality for _, _, quality in points])])


def _figure(rows: int, columns: int, groups: int) -> tuple[Any, Any]:
    """A figure with room for a legend, and panels [rows, columns]."""
    legend = 0.24 * -(-groups // 3) + 0.1
    size = (max(5.5, 3.7 * columns), 2.7 * rows + legend)
    figure = new_figure(*size, dpi=110, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _finished(figure: Any, comparison: Comparison, groups: Sequence[int]) -> np.ndarray:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour(i), linestyle=(0, dashes(i)) if dashes(i) else "-", marker="o",
               ms=4, label=comparison.groups[i].label)
        for i in groups
    ]  # fmt: skip
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False,
                      fontsize=8.5)  # fmt: skip
    return pixels(figure)

"""The pictures of a report: learning curves, quality over training and against cost, samples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import compress, product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddiff.pages.plotting import colour, dashes, new_figure, pixels, styled
from ddiff.pages.report.comparison import Comparison
from ddiff.pages.report.figures import (
    COSTS,
    LENGTH,
    TRAIN_LOSS,
    VAL_LOSS,
    Column,
    Series,
    front,
)
from ddiff.pages.view.pictures import BACKGROUND, image_grid, save_png, volume_grid
from ddiff.pages.view.reading import Found

AXES = {"steps": "optimiser steps", "seconds": "training, seconds", "images": "images seen"}
MOST = 5  # rows of one picture
INK, LINE, GAP = (27, 36, 48), 26, 6  # of a label: colour, height, distance in pixels
Points = list[tuple[int, float, float]]  # group, cost, quality


def draw(comparison: Comparison, samples: Sequence[Found | None], folder: Path) -> list[Path]:
    """The pictures of CAPTIONS, those that have something to show."""
    losses: dict[str, list[Series | None]] = {}  # by title: a line for each group
    figures: dict[str, list[Series | None]] = {}
    for curves in sorted(comparison.curves, key=lambda curves: curves.name != TRAIN_LOSS):
        lines = comparison.means(curves)
        title = curves.title + (" (as sampled)" if curves.name == TRAIN_LOSS else "")
        if any(line and len(line.steps) > 1 for line in lines):
            (losses if curves.name in (TRAIN_LOSS, VAL_LOSS) else figures)[title] = lines
    found = {}
    for name, rows in (("curves.png", losses), ("quality.png", figures)):
        if rows:
            found[name] = _curves(comparison, dict(list(rows.items())[:MOST]))
    if comparison.lengths:
        rows = {one.title: comparison.means(one) for one in comparison.lengths[:MOST]}
        found["averages.png"] = _curves(comparison, rows, {"steps": LENGTH})
    if panels := _panels(comparison):
        found["pareto.png"] = _pareto(comparison, panels)
    if any(samples):
        groups = zip(comparison.groups, comparison.by_group(samples), strict=True)
        rows = [(group.label, one) for group, own in groups for one in list(filter(None, own))[:1]]
        found["samples.png"] = strips(rows)
    return [save_png(picture, folder / name) for name, picture in found.items()]


def _grid(
    comparison: Comparison,
    rows: Collection[Any],
    columns: Collection[str],
    groups: Sequence[int],
    fill: Callable[[Any, Any, str], None],
) -> np.ndarray:
    """A panel for each row and column, filled by `fill(panel, row, column)`; a legend of the groups
    where there are several."""
    from matplotlib.lines import Line2D

    legend = 0.24 * -(-len(groups) // 3) + 0.1
    size = (max(5.5, 3.7 * len(columns)), 2.7 * len(rows) + legend)
    figure = new_figure(*size, dpi=110, layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for panel, (row, column) in zip(panels.flat, product(rows, columns), strict=True):
        fill(panel, row, column)
    if len(groups) > 1:
        handles = [
            Line2D([], [], label=comparison.groups[i].label, marker="o", ms=4, **_look(i))
            for i in groups
        ]
        place = {"loc": "outside lower center", "ncols": 3}
        figure.legend(handles=handles, frameon=False, fontsize=8.5, **place)
    return pixels(figure)


def _look(group: int) -> dict[str, Any]:
    style = (0, dashes(group)) if dashes(group) else "-"
    return {"color": colour(group), "linestyle": style}


def _labelled(panel: Any, across: str, up: str, values: Sequence[float]) -> None:
    """Names the axes; the vertical one is logarithmic where the values are far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    styled(panel, up)
    panel.set_xlabel(across, fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(_brief))
    known = [value for value in values if np.isfinite(value)]
    if known and 0 < min(known) * 8 < max(known):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(_brief))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _brief(value: float, _position: int) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _curves(
    comparison: Comparison,
    rows: Mapping[str, Sequence[Series | None]],
    axes: Mapping[str, str] = AXES,
) -> np.ndarray:
    """A row for each loss or figure, a column for each of `axes`."""
    used = [i for i in range(len(comparison.groups)) if any(lines[i] for lines in rows.values())]

    def fill(panel: Any, title: str, axis: str) -> None:
        there = [(group, line) for group in used if (line := rows[title][group])]
        for group, line in there:
            x, y = getattr(line, axis), line.values
            if np.isfinite(x).any():
                marker = "o" if len(x) <= 30 else None
                panel.plot(x, y, linewidth=1.5, marker=marker, ms=3, **_look(group))
                band = {"color": colour(group), "alpha": 0.15, "linewidth": 0}
                if np.isfinite(line.low).any():
                    panel.fill_between(x, line.low, line.high, **band)
        values = np.concatenate([line.values for _, line in there])
        _labelled(panel, axes[axis], title if axis == "steps" else "", values.tolist())

    return _grid(comparison, rows, axes, used, fill)


def _panels(comparison: Comparison) -> dict[tuple[Column, str], Points]:
    """Points of cost and quality: evaluated figures, or validation losses if there are none."""
    known = [c for c in comparison.columns if c.first.better]
    chosen = [c for c in known if c.first.name != VAL_LOSS] or known
    panels = {(c, cost): weighed(comparison, c, cost) for c in chosen[:MOST] for cost in COSTS}
    return {key: points for key, points in panels.items() if len({p[1] for p in points}) > 1}


def weighed(comparison: Comparison, column: Column, cost: str) -> Points:
    """Every evaluation, the mean over a group's seeds of what is alike in step and sampling."""
    alike: dict[tuple[int, int | None, str], list[tuple[float, float]]] = {}
    for group, run in zip(comparison.group_of, comparison.runs, strict=True):
        for point in run.points:
            paid = point.costs[cost]
            if point.key == column.first.key and paid is not None and point.value is not None:
                alike.setdefault((group, point.step, point.way), []).append((paid, point.value))
    return [(group, *np.mean(pairs, axis=0)) for (group, _, _), pairs in alike.items()]


def _pareto(comparison: Comparison, panels: Mapping[tuple[Column, str], Points]) -> np.ndarray:
    """A row for each figure, a column for each cost."""
    columns = list(dict.fromkeys(column for column, _ in panels))
    paid_in = [cost for cost in COSTS if any(cost == other for _, other in panels)]
    used = sorted({group for points in panels.values() for group, _, _ in points})

    def fill(panel: Any, column: Column, cost: str) -> None:
        points = panels.get((column, cost))
        if not points:
            panel.set_axis_off()
            return
        places = [(paid, quality) for _, paid, quality in points]
        on = front(places, column.first.better or "lower")
        for (group, paid, quality), stands in zip(points, on, strict=True):
            look = {"ms": 6, "alpha": 1} if stands else {"ms": 4, "alpha": 0.3}
            panel.plot(paid, quality, "o", color=colour(group), mew=0, **look)
        best = sorted(compress(places, on))
        panel.step(*zip(*best, strict=True), where="post", color="#555c68", lw=1, zorder=1.5)
        _labelled(panel, COSTS[cost], column.title, [quality for _, quality in places])

    return _grid(comparison, columns, paid_in, used, fill)


def strips(rows: Sequence[tuple[str, Found]]) -> np.ndarray:
    """A strip of samples under each label."""
    strips = []
    for label, one in rows:
        grid = volume_grid if one.kind == "volumes" else image_grid
        strips.append(_with_label(grid(one.samples, len(one.samples)), label))
    width = max(strip.shape[1] for strip in strips)
    fill = {"mode": "constant", "constant_values": BACKGROUND}
    wide = [np.pad(s, ((0, GAP), (0, width - s.shape[1]), (0, 0)), **fill) for s in strips]
    return np.concatenate(wide)


def _with_label(strip: np.ndarray, label: str) -> np.ndarray:
    font = ImageFont.load_default(14)
    width = max(strip.shape[1], int(font.getlength(label)) + 2 * GAP)
    image = Image.new("RGB", (width, strip.shape[0] + LINE), (BACKGROUND,) * 3)
    image.paste(Image.fromarray(strip), (0, LINE))
    ImageDraw.Draw(image).text((GAP, LINE // 2), label, fill=INK, font=font, anchor="lm")
    return np.asarray(image)

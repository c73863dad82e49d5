"""The comparison as a picture: a bar for each row, what it cost in fidelity beside it."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddiff.benchmarking.racing import Contest, Row
from ddiff.pages.plotting import PALETTE, new_figure, pixels

Group = tuple[Contest, Sequence[Row]]
*HUES, FIRST = PALETTE  # the first row is grey
TEXT, FAINT = "#2b2f36", "#767c87"
COLUMNS = 2  # panels beside each other, where there are many
KEY = "thin line: quartiles; x: speed-up over the first row"
LABELS = 0.6  # of a panel's width beyond the longest bar, for the words beside the bars


def picture(title: str, about: str, words: str, groups: Sequence[Group]) -> np.ndarray:
    """uint8 [H, W, 3]: a panel for each solver and batch size."""
    columns = COLUMNS if len(groups) > COLUMNS else 1
    grid = [groups[i : i + columns] for i in range(0, len(groups), columns)]
    heights = [0.75 + 0.3 * max(len(rows) for _, rows in line) for line in grid]
    width, top = 4.6 + 4.4 * columns, 0.95
    figure = new_figure(width, sum(heights) + top, dpi=120, layout="constrained")
    height = figure.get_figheight()
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.01, 0, 0.98, 1 - top / height), hspace=0.04, wspace=0.06)
    for inches, text, look in (
        (0.14, title, {"fontsize": 13, "weight": "bold", "color": TEXT}),
        (0.43, about, {"fontsize": 9, "color": FAINT}),
        (0.62, f"{KEY}; {words}", {"fontsize": 9, "color": FAINT}),
    ):
        figure.text(0.18 / width, 1 - inches / height, text, va="top", **look)
    panels = figure.subplots(len(grid), columns, squeeze=False, height_ratios=heights)
    backends = dict.fromkeys(row.backend for _, rows in groups for row in rows[1:])
    colours = dict.fromkeys(backends, FIRST) | dict(zip(backends, HUES, strict=False))
    for panel in panels.flat[len(groups) :]:
        panel.set_axis_off()
    for panel, group in zip(panels.flat, groups, strict=False):
        _bars(panel, *group, colours)
    return pixels(figure)


def _bars(panel: Any, contest: Contest, rows: Sequence[Row], colours: dict[str, str]) -> None:
    longest = max(row.per_sample[2] for row in rows if not row.trouble) * 1000
    precisions = list(dict.fromkeys(row.precision for row in rows))
    for place, row in enumerate(rows):
        if row.trouble:
            why = textwrap.shorten(f"cannot run: {row.trouble}", 90, placeholder=" ...")
            panel.text(longest / 100, place, why, va="center", fontsize=8, color=FAINT,
                       style="italic")  # fmt: skip
            continue
        low, middle, high = (1000 * seconds for seconds in row.per_sample)
        shade = max(0.25, 1 - 0.42 * precisions.index(row.precision))
        colour = colours[row.backend] if place else FIRST
        panel.barh(place, middle, 0.68, color=colour, alpha=shade, linewidth=0)
        panel.plot([low, high], [place, place], color=TEXT, linewidth=1.1, alpha=0.75)
        panel.text(max(middle, high) + longest / 70, place, _beside(row, place == 0), va="center",
                   fontsize=9, color=TEXT)  # fmt: skip
    names = [f"{row.backend}  {row.precision}" for row in rows]
    panel.set_yticks(range(len(rows)), names, fontsize=9, color=TEXT)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlim(0, longest * (1 + LABELS))
    panel.set_title(contest.title, loc="left", fontsize=10, weight="bold", color=TEXT)
    panel.set_xlabel("ms a sample", fontsize=8.5, color=FAINT, loc="left")
    panel.tick_params(axis="x", labelsize=8, colors=FAINT)
    panel.tick_params(axis="y", length=0)
    panel.set_xticks([tick for tick in panel.get_xticks() if 0 <= tick <= longest * 1.02])
    panel.grid(axis="x", color="#e6e8ec", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)


def _beside(row: Row, first: bool) -> str:
    """`12.3 ms, 2.31x, 61.2 dB`."""
    words = [f"{milliseconds(row.per_sample[1])} ms"]
    if not first:
        words.append(f"{row.ratio:.2f}x")
    if "psnr" in row.fidelity:
        words.append(in_words(row, "psnr"))
    if not first and "loss_difference" in row.fidelity:
        words.append(f"off by {in_words(row, 'loss_difference')}")
    return "  ·  ".join(words)


def in_words(row: Row, figure: str) -> str:
    """A figure of a row's fidelity."""
    if figure not in row.fidelity:
        return "-"
    value = row.fidelity[figure]
    if figure == "psnr":
        return "exact" if value is None else f"{value:.1f} dB"
    return f"{value:.5g}" if figure == "loss" else f"{value:.1e}"


def milliseconds(seconds: float) -> str:
    return three_digits(1000 * seconds)


def three_digits(value: float) -> str:
    """A number with three significant digits, or with all digits before the point."""
    decimals = next((d for d in range(4) if value >= 10 ** (2 - d)), 4)
    return f"{value:.{decimals}f}"

"""Memory over time as a picture."""

from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from ddiff.pages.plotting import new_figure, pixels
from ddiff.pages.view import save_png
from ddiff.profiling.memory import TEMPORARY, Memory

COLOURS = ("#3b5b92", "#6f8fc4", "#a9bfe3", "#5b9a8b", "#d98c3f", "#b8568a", "#8f7fc9",
           "#7f9c3b", "#4f9fb8", "#a39a8b")  # fmt: skip
GREY = "#d3d3d0"
SEEN = 0.003  # of the height: what is less is in the picture, but not in the legend
BAND = ("#dbe6f7", "#fbe3cb", "#d5ebe1", "#eadcf0", "#f6eec9", "#e3e3e0")


def draw(memory: Memory, path: Path) -> np.ndarray:
    """Writes the picture and returns it, [H, W, 3]."""
    figure = new_figure(11, 5, dpi=120, layout="constrained")
    band, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 12])
    times, sizes = memory.times / 1e3, memory.sizes / 1e6
    end = memory.phases[-1][1] / 1e3
    times, sizes = np.append(times, end), np.concatenate([sizes, sizes[:, -1:]], axis=1)
    colours = [GREY if name == TEMPORARY else COLOURS[i % len(COLOURS)]
               for i, name in enumerate(memory.categories)]  # fmt: skip
    axes.stackplot(times, sizes, labels=memory.categories, colors=colours, step="post", lw=0)
    total = sizes.sum(0)
    at = int(total.argmax())
    axes.plot(times[at], total[at], "o", color="black", ms=4)
    axes.annotate(f"peak {total[at]:.4g} MB", (times[at], total[at]), (0, 7),
                  textcoords="offset points", ha="center" if 0.1 < times[at] / end < 0.9
                  else "left" if times[at] / end <= 0.1 else "right")  # fmt: skip
    axes.set(xlim=(0, end), ylim=(0, total.max() * 1.12), xlabel="ms", ylabel="MB")
    axes.spines[["top", "right"]].set_visible(False)
    seen = sizes.max(1) > SEEN * total.max()
    handles, names = (list(compress(some, seen)) for some in axes.get_legend_handles_labels())
    axes.legend(handles[::-1], names[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0),
                frameon=False)  # fmt: skip
    _draw_phases(memory, band, end)
    drawn = pixels(figure)
    save_png(drawn, path)
    return drawn


def _draw_phases(memory: Memory, band: Any, end: float) -> None:
    """A strip in which every phase that is long enough is named."""
    # those that take longest get colours of their own
    lengths: dict[str, float] = {}
    for left, right, name in _joined(memory):
        lengths[name] = lengths.get(name, 0.0) + right - left
    longest = sorted(lengths, key=lambda name: -lengths[name])
    bands = dict(zip(longest, BAND, strict=False))
    for left, right, name in _joined(memory):
        band.axvspan(left, right, color=bands.get(name, BAND[-1]), lw=0)
        if (right - left) / end > 0.011 * len(name):
            band.text((left + right) / 2, 0.5, name, ha="center", va="center", fontsize=8)
    band.set(ylim=(0, 1))
    band.axis("off")


def _joined(memory: Memory) -> list[tuple[float, float, str]]:
    """Neighbours of one name as one, in milliseconds."""
    joined: list[tuple[float, float, str]] = []
    for start, end, name in memory.phases:
        if joined and joined[-1][2] == name:
            start = joined.pop()[0] * 1e3
        joined.append((start / 1e3, end / 1e3, name))
    return joined

"""A picture of what a timestep sampler does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddiff.pages.plotting import BLUE, GREY, ORANGE, logarithmic, new_figure, pixels, styled

LINES = ((BLUE, 3.0, 0.55), (ORANGE, 1.4, 1.0))  # colour, width, opacity: both show where they meet
HEADROOM = 1.25  # for the legend


def timesteps_picture(
    title: str,
    p: np.ndarray,
    score: np.ndarray | None,
    losses: Mapping[str, Sequence[float | None]],
) -> np.ndarray:
    """uint8 [H, W, 3]: the law p(t) [T], the scores [T] where there are any, and below them the
    losses by tenth of t, None where there is none; all over t = 1..T."""
    rows = 2 if score is None else 3
    T = len(p)
    figure = new_figure(8, 0.9 + 2.1 * rows)
    panels = list(figure.subplots(rows, 1, sharex=True))
    top, bottom = 1 - 0.5 / figure.get_figheight(), 0.55 / figure.get_figheight()
    figure.subplots_adjust(left=0.1, right=0.98, top=top, bottom=bottom, hspace=0.12)
    panels[0].set_title(title, loc="left", fontsize=10)
    filled(panels[0], p * T, "T p(t)", least=1)
    panels[0].axhline(1, color=GREY, linestyle="--", linewidth=1, label="uniform")
    legend(panels[0])
    if score is not None:
        filled(panels[1], score, "score(t)")
    steps(panels[-1], losses, T)
    panels[-1].set(xlabel="t", xlim=(0.5, T + 0.5))
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return pixels(figure)


def filled(panel: Any, values: np.ndarray, label: str, least: float = 0) -> None:
    new = np.flatnonzero(np.diff(values, prepend=np.nan))  # most laws have few distinct values
    heights, edges = values[new], np.append(new, len(values)) + 0.5
    panel.stairs(heights, edges, fill=True, color=BLUE, alpha=0.3, linewidth=0)
    panel.stairs(heights, edges, color=BLUE, linewidth=1.2)
    highest = max(float(np.max(values)), least)
    if 0 < highest < np.inf:
        panel.set_ylim(0, HEADROOM * highest)
    styled(panel, label)


def steps(panel: Any, losses: Mapping[str, Sequence[float | None]], T: int) -> None:
    """Each series a line of ten steps; logarithmic where the values are far apart."""
    found = [v for values in losses.values() for v in values if v and 0 < v < np.inf]
    for (name, values), (color, width, alpha) in zip(losses.items(), LINES, strict=True):
        heights = np.array([np.nan if v is None else v for v in values])
        edges = np.linspace(0.5, T + 0.5, len(values) + 1)
        panel.stairs(
            heights, edges, baseline=None, color=color, linewidth=width, alpha=alpha, label=name
        )
    if found and max(found) > 5 * min(found):
        logarithmic(panel, min(found) / 1.3, max(found) * 2)
    elif found:
        panel.set_ylim(0, HEADROOM * max(found))
    legend(panel)
    styled(panel, "loss")


def legend(panel: Any) -> None:
    panel.legend(frameon=False, fontsize=9, ncols=2, loc="upper right", borderaxespad=0)

"""Pictures by matplotlib: the look that they share, and those of timestep samplers and scores."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLUE, ORANGE, GREY = "#3b6fb6", "#d1603d", "#666666"
# ten hues that light and dark paper both carry, told apart by the usual colour-blind eyes
PALETTE = ("#3b74d6", "#e07b39", "#2e9e78", "#c2559d", "#b8961e", "#5bb4cf", "#d4504c", "#8468c9",
           "#7d8a3a", "#8c8f99")  # fmt: skip
DASHES = ((), (5, 3), (1.5, 2.5), (8, 3, 1.5, 3))  # beyond ten, the same hues again, dashed
LINES = ((BLUE, 3.0, 0.55), (ORANGE, 1.4, 1.0))  # colour, width, opacity: both show where they meet
HEADROOM = 1.25  # for the legend
SPAN = 30  # largest over smallest score beyond which the axis is logarithmic


def colour(group: int) -> str:
    return PALETTE[group % len(PALETTE)]


def dashes(group: int) -> tuple[float, ...]:
    return DASHES[group // len(PALETTE) % len(DASHES)]


def new_figure(width: float, height: float, dpi: int = 100, layout: str | None = None) -> Any:
    """A matplotlib Figure of so many inches, which no window and no global state knows of."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it remarks on its own caches
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)  # pyright: ignore
    FigureCanvasAgg(figure)
    return figure


def pixels(figure: Any) -> np.ndarray:
    """The figure drawn, uint8 [H, W, 3]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def styled(panel: Any, label: str) -> None:
    """Gives a panel its grid, its axes and the name of what is on its vertical axis."""
    panel.set_ylabel(label, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(color="#e6e6e6", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def logarithmic(panel: Any, low: float, high: float) -> None:
    """Gives a panel a logarithmic vertical axis from `low` to `high`, marked at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    panel.set_yscale("log")
    panel.set_ylim(low, high)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def score_picture(
    title: str,
    edges: np.ndarray,
    score: np.ndarray,
    error: np.ndarray,
    chosen: Sequence[tuple[int, int]],
    label: str,
) -> np.ndarray:
    """uint8 [H, W, 3]: score [N] of timesteps edges[n] + 1 .. edges[n + 1] within its standard
    error [N]; stretches of chosen timesteps, first and last, are shaded."""
    figure = new_figure(8, 3.6, layout="constrained")
    panel = figure.add_subplot()
    panel.set_title(title, loc="left", fontsize=10)
    at = edges + 0.5
    panel.stairs(score, at, baseline=None, color=BLUE, linewidth=1.4, label="score")
    band = {"fill": True, "color": BLUE, "alpha": 0.35, "linewidth": 0}
    panel.stairs(score + error, at, baseline=score - error, label="standard error", **band)
    for i, (first, last) in enumerate(chosen):
        name = None if i else f"chosen: {sum(b - a + 1 for a, b in chosen)} of {edges[-1]}"
        span = first - 0.5, last + 0.5
        panel.axvspan(*span, color=ORANGE, alpha=0.15, linewidth=0, zorder=0, label=name)
    if score.max() > SPAN * score.min() > 0:
        logarithmic(panel, 0.8 * score.min(), 1.25 * score.max())
    else:
        panel.set_ylim(bottom=0)
    panel.set(xlabel="t (from data to noise)", xlim=(at[0], at[-1]))
    styled(panel, label)
    panel.legend(frameon=False, fontsize=9)
    return pixels(figure)


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
    _filled(panels[0], p * T, "T p(t)", least=1)
    panels[0].axhline(1, color=GREY, linestyle="--", linewidth=1, label="uniform")
    if score is not None:
        _filled(panels[1], score, "score(t)")
    _steps(panels[-1], losses, T)
    for panel in (panels[0], panels[-1]):
        panel.legend(frameon=False, fontsize=9, ncols=2, loc="upper right", borderaxespad=0)
    panels[-1].set(xlabel="t", xlim=(0.5, T + 0.5))
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return pixels(figure)


def _filled(panel: Any, values: np.ndarray, label: str, least: float = 0) -> None:
    new = np.flatnonzero(np.diff(values, prepend=np.nan))  # most laws have few distinct values
    heights, edges = values[new], np.append(new, len(values)) + 0.5
    panel.stairs(heights, edges, fill=True, color=BLUE, alpha=0.3, linewidth=0)
    panel.stairs(heights, edges, color=BLUE, linewidth=1.2)
    highest = max(float(np.max(values)), least)
    if 0 < highest < np.inf:
        panel.set_ylim(0, HEADROOM * highest)
    styled(panel, label)


def _steps(panel: Any, losses: Mapping[str, Sequence[float | None]], T: int) -> None:
    """Each series a line of ten steps; logarithmic where the values are far apart."""
    for (name, values), (color, width, alpha) in zip(losses.items(), LINES, strict=True):
        look = {"color": color, "linewidth": width, "alpha": alpha, "label": name}
        edges = np.linspace(0.5, T + 0.5, len(values) + 1)
        panel.stairs(np.array(values, float), edges, baseline=None, **look)  # None becomes NaN
    found = [v for values in losses.values() for v in values if v and 0 < v < np.inf]
    if found and max(found) > 5 * min(found):
        logarithmic(panel, min(found) / 1.3, max(found) * 2)
    elif found:
        panel.set_ylim(0, HEADROOM * max(found))
    styled(panel, "loss")

"""A picture of scores over the noise levels."""

from collections.abc import Sequence

import numpy as np

from ddiff.pages.plotting import BLUE, ORANGE, logarithmic, new_figure, pixels, styled

SPAN = 30  # largest over smallest score beyond which the axis is logarithmic


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

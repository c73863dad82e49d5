"""Pictures by matplotlib: a figure, the look of its panels, its pixels."""

import logging
from typing import Any

import numpy as np

BLUE, ORANGE, GREY = "#3b6fb6", "#d1603d", "#666666"


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

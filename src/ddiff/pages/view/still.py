"""One picture of samples of either kind."""

from typing import Any

import numpy as np

from ddiff.pages.view.pictures import image_grid
from ddiff.pages.view.shading import volume_grid


def picture(samples: Any, columns: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: a grid of images [N, C, H, W], or of shaded solids [N, 1, D, H, W]."""
    grid = volume_grid if np.ndim(samples) == 5 else image_grid
    return grid(samples, columns=columns)

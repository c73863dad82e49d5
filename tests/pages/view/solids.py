"""Solids in closed form for the viewing tests."""

import numpy as np


def ball(radius: float, size: int = 48, centre: tuple[float, float, float] = (0, 0, 0)):
    """[D, H, W] in [-1, 1], linear across the surface; centre (x, y, z) from the middle."""
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    far = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
    return np.clip(radius - far, -1, 1).astype(np.float32)

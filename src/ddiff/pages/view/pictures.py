"""Grids of images, and PNG files that are whole or absent."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddiff.pages.view.samples import as_images
from ddiff.system.errors import ConfigError
from ddiff.system.files import replacing

BACKGROUND = 245
CELL = 64  # pixels: smaller images are enlarged to about this


def image_grid(
    samples: Any, columns: int | None = None, padding: int = 2, scale: int | None = None
) -> np.ndarray:
    """uint8 [H, W, 3]: samples [N, C, H, W] in [-1, 1], row by row, enlarged `scale` times.

    Without `columns` the grid is about square; without `scale` a cell is at least 64 pixels.
    """
    tiles = to_pixels(as_images(samples))
    if scale is None:
        scale = max(1, math.ceil(CELL / max(tiles.shape[1:3])))
    if scale < 1 or padding < 0:
        raise ConfigError(f"scale={scale} must be at least 1, and padding={padding} at least 0")
    return tiled(tiles.repeat(scale, axis=1).repeat(scale, axis=2), columns, padding)


def to_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] of float [N, C, H, W]; -1 is 0 and 1 is 255."""
    levels = np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.broadcast_to(levels.transpose(0, 2, 3, 1), (*levels[:, 0].shape, 3))


def tiled(tiles: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """uint8 [H, W, 3] of tiles [N, h, w, 3], with `padding` pixels around and between them."""
    count, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    if columns < 1:
        raise ConfigError(f"columns={columns} must be at least 1")
    rows = math.ceil(count / columns)
    step_y, step_x = height + padding, width + padding
    grid = np.full((rows * step_y + padding, columns * step_x + padding, 3), BACKGROUND, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // columns) * step_y + padding, (number % columns) * step_x + padding
        grid[top : top + height, left : left + width] = tile
    return grid


def save_png(array: np.ndarray, path: str | Path) -> Path:
    """Writes uint8 [H, W], [H, W, 3] or [H, W, 4]; a reader never sees half a file."""
    image = Image.fromarray(np.ascontiguousarray(array))
    with replacing(Path(path)) as file:
        image.save(file, format="PNG")
    return Path(path)

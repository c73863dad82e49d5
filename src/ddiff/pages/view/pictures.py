"""Still pictures of samples: grids of images, shaded solids, and PNG files, whole or absent.

A solid is the level-0 surface of a volume, on light paper.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddiff.pages.view.rays import (
    AZIMUTH,
    ELEVATION,
    PAD,
    Camera,
    Scene,
    blurred,
    camera,
    interpolate,
    march,
)
from ddiff.pages.view.reading import as_images, as_volumes, one_volume
from ddiff.system.errors import ConfigError
from ddiff.system.files import replacing

BACKGROUND = 245
CELL = 64  # pixels: smaller images are enlarged to about this
PAPER = np.array([247, 248, 250], np.float32)
SOLID = np.array([0.115, 0.270, 0.680], np.float32)  # linear light
FLOOR = np.array([0.36, 0.42, 0.52, 0.13], np.float32)  # sRGB and opacity
SHADOW = 0.42
LAMP = np.array([-0.45, 0.66, 0.60], np.float32)  # right, up, toward the viewer


def picture(samples: Any, columns: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: a grid of images [N, C, H, W], or of shaded solids [N, C, D, H, W]."""
    grid = volume_grid if np.ndim(samples) == 5 else image_grid
    return grid(samples, columns)


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


def shade(
    volume: Any, size: int = 160, azimuth: float = AZIMUTH, elevation: float = ELEVATION
) -> np.ndarray:
    """uint8 [size, size, 3]: the solid where volume [D, H, W] > 0, on light paper."""
    rgba = shade_rgba(volume, size, azimuth, elevation).astype(np.float32)
    alpha = rgba[..., 3:] / 255
    return np.rint(PAPER + alpha * (rgba[..., :3] - PAPER)).astype(np.uint8)


def volume_grid(
    samples: Any,
    columns: int | None = None,
    size: int = 160,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
) -> np.ndarray:
    """uint8 [H, W, 3]: a shaded still of every volume, row by row."""
    stills = [shade(volume, size, azimuth, elevation) for volume in as_volumes(samples)]
    return tiled(np.stack(stills), columns)


def shade_rgba(
    volume: Any, size: int = 160, azimuth: float = AZIMUTH, elevation: float = ELEVATION
) -> np.ndarray:
    """uint8 [size, size, 4]: as `shade`, on nothing, for any background."""
    volume = one_volume(volume)
    view = camera(volume.shape, size, azimuth, elevation)
    scene = Scene.of(volume)
    middle = (np.arange(size, dtype=np.float32) + 0.5 - size / 2) / view.pixels_per_voxel
    v, u = (axis.ravel() for axis in np.meshgrid(-middle, middle, indexing="ij"))
    picture = _floor(scene, view, u, v)
    if scene.solid:
        colour, depth = _rays(scene, view, u, v)
        edge = np.flatnonzero(_edges(depth.reshape(size, size)))
        quarter = 0.25 / view.pixels_per_voxel * np.array([-1, 1], np.float32)
        du, dv = (axis.reshape(4, 1) for axis in np.meshgrid(quarter, quarter, indexing="ij"))
        finer, _ = _rays(scene, view, (u[edge] + du).ravel(), (v[edge] + dv).ravel())
        colour[edge] = finer.reshape(4, -1, 4).mean(axis=0)
        picture = colour + (1 - colour[:, 3:]) * picture
    straight = picture[:, :3] / np.maximum(picture[:, 3:], 1e-6)
    rgba = np.rint(np.column_stack([straight, picture[:, 3]]).clip(0, 1) * 255).astype(np.uint8)
    rgba = rgba.reshape(size, size, 4)
    return rgba if scene.solid else _marked_empty(rgba)


def _rays(
    scene: Scene, view: Camera, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colours [n, 4] and depths [n] (infinite for a miss) at picture points u, v."""
    centre = (np.array(scene.field.shape, np.float32) - 1)[:, None] / 2
    start = centre + view.right[:, None] * u + view.up[:, None] * v
    depth = march(scene, start, -view.toward)
    colour = np.zeros((len(u), 4), np.float32)
    hit = np.flatnonzero(np.isfinite(depth))
    points = start[:, hit] - view.toward[:, None] * depth[hit]
    colour[hit, :3] = _light(scene, view, points)
    colour[hit, 3] = 1
    return colour, depth


def _light(scene: Scene, view: Camera, points: np.ndarray) -> np.ndarray:
    """sRGB [n, 3] in [0, 1] of surface points [3, n]: lamp, sky, gloss, rim and occlusion."""
    normal = scene.normals(points)
    lamp = LAMP[0] * view.right + LAMP[1] * view.up + LAMP[2] * view.toward
    half = lamp + view.toward
    half /= np.linalg.norm(half)
    open_sky = scene.open_sky(points, normal)
    lambert = np.clip(0.88 * (lamp @ normal) + 0.12, 0, 1) * (0.35 + 0.65 * open_sky)
    sky = (0.30 + 0.16 * normal[0]) * open_sky
    facing = np.clip(view.toward @ normal, 0, 1)
    rim = 0.16 * (1 - facing) ** 3 * open_sky
    gloss = 0.13 * np.clip(half @ normal, 0, 1) ** 32
    linear = SOLID[:, None] * (sky + 1.05 * lambert) + rim + gloss
    return np.clip(linear.T, 0, 1) ** (1 / 2.2)


def _floor(scene: Scene, view: Camera, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Premultiplied [n, 4]: the bottom of the box and the soft shadow on it; none from below."""
    shape = np.array(scene.field.shape, np.float32) - 2 * PAD
    picture = np.zeros((len(u), 4), np.float32)
    if view.toward[0] < 0.02:
        return picture
    side = view.right[:, None] * u + view.up[:, None] * v
    spot = side - view.toward[:, None] * (side[0] + shape[0] / 2) / view.toward[0]  # z: the bottom
    beyond = np.maximum(abs(spot[1]) - shape[1] / 2, abs(spot[2]) - shape[2] / 2)
    tone = FLOOR[3] * np.clip(0.5 - beyond * view.pixels_per_voxel, 0, 1)
    dark = shadow(scene)
    middle = (np.array(dark.shape, np.float32)[:, None] - 1) / 2
    dark = SHADOW * interpolate(dark, spot[1:] + middle)
    picture[:, :3] = FLOOR[:3] * tone[:, None] * (1 - dark[:, None])
    picture[:, 3] = tone + dark - tone * dark
    return picture


def shadow(scene: Scene) -> np.ndarray:
    """[H, W] in [0, 1], padded by 2 PAD: how much solid stands above, the nearer the darker."""
    solid = np.clip(scene.field[PAD:] + 0.5, 0, 1)
    height = np.arange(len(solid), dtype=np.float32) / max(1, len(solid) - PAD)
    dark = np.pad((solid * np.exp(-2.2 * height)[:, None, None]).max(axis=0), PAD)
    for spacing in (1, 2, 3, 5):
        if spacing == 1 or 20 * spacing <= max(scene.field.shape):
            dark = blurred(dark, spacing, outside=0)
    return dark


def _edges(depth: np.ndarray) -> np.ndarray:
    """Pixels beside an outline or a step in depth: what deserves more rays."""
    depth = np.minimum(depth, 1e4)  # a miss is far away
    edge = np.zeros(depth.shape, bool)
    down, across = abs(np.diff(depth, axis=0)) > 2, abs(np.diff(depth, axis=1)) > 2
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def _marked_empty(rgba: np.ndarray) -> np.ndarray:
    size = len(rgba)
    image = Image.fromarray(rgba)
    font = ImageFont.load_default(max(9, size // 12))
    where = (size / 2, size / 2)
    ImageDraw.Draw(image).text(where, "empty", fill=(128, 136, 150, 255), font=font, anchor="mm")
    return np.asarray(image)

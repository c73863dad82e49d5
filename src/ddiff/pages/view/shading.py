"""Shaded stills of solids: the level-0 surface of a volume, on light paper."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddiff.pages.view.fields import blurred, interpolate
from ddiff.pages.view.pictures import tiled
from ddiff.pages.view.rays import AZIMUTH, ELEVATION, PAD, Camera, Scene, camera, march
from ddiff.pages.view.samples import as_volumes, one_volume

PAPER = np.array([247, 248, 250], np.float32)
SOLID = np.array([0.115, 0.270, 0.680], np.float32)  # linear light
FLOOR = np.array([0.36, 0.42, 0.52, 0.13], np.float32)  # sRGB and opacity
SHADOW = 0.42
LAMP = np.array([-0.45, 0.66, 0.60], np.float32)  # right, up, toward the viewer


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
    picture = floor(scene, view, u, v)
    if not scene.solid:
        return _marked_empty(_to_bytes(picture.reshape(size, size, 4)))
    colour, depth = rays(scene, view, u, v)
    edge = np.flatnonzero(_edges(depth.reshape(size, size)))
    quarter = 0.25 / view.pixels_per_voxel
    corners = [(-quarter, -quarter), (-quarter, quarter), (quarter, -quarter), (quarter, quarter)]
    du, dv = np.array(corners, np.float32).T[..., None]
    finer, _ = rays(scene, view, (u[edge] + du).ravel(), (v[edge] + dv).ravel())
    colour[edge] = finer.reshape(4, -1, 4).mean(axis=0)
    picture = colour + (1 - colour[:, 3:]) * picture
    return _to_bytes(picture.reshape(size, size, 4))


def rays(scene: Scene, view: Camera, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colours [n, 4] and depths [n] (infinite for a miss) at picture points u, v."""
    centre = (np.array(scene.field.shape, np.float32) - 1)[:, None] / 2
    start = centre + view.right[:, None] * u + view.up[:, None] * v
    depth = march(scene, start, -view.toward)
    colour = np.zeros((len(u), 4), np.float32)
    hit = np.flatnonzero(np.isfinite(depth))
    points = start[:, hit] - view.toward[:, None] * depth[hit]
    colour[hit, :3] = light(scene, view, points)
    colour[hit, 3] = 1
    return colour, depth


def light(scene: Scene, view: Camera, points: np.ndarray) -> np.ndarray:
    """sRGB [n, 3] in [0, 1] of surface points [3, n]: lamp, sky, gloss, rim and occlusion."""
    slope = interpolate(scene.slopes, points).T
    normal = -slope / (np.linalg.norm(slope, axis=0) + 1e-6)
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


def floor(scene: Scene, view: Camera, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Premultiplied [n, 4]: the bottom of the box and the soft shadow on it; none from below."""
    shape = np.array(scene.field.shape, np.float32) - 2 * PAD
    picture = np.zeros((len(u), 4), np.float32)
    if view.toward[0] < 0.02:
        return picture
    side = view.right[:, None] * u + view.up[:, None] * v
    spot = side - view.toward[:, None] * (side[0] + shape[0] / 2) / view.toward[0]  # z: the bottom
    beyond = np.maximum(abs(spot[1]) - shape[1] / 2, abs(spot[2]) - shape[2] / 2)
    tone = FLOOR[3] * np.clip(0.5 - beyond * view.pixels_per_voxel, 0, 1)
    dark = SHADOW * _bilinear(_shadow(scene.field), spot[1:])
    picture[:, :3] = FLOOR[:3] * tone[:, None] * (1 - dark[:, None])
    picture[:, 3] = tone + dark - tone * dark
    return picture


def _shadow(field: np.ndarray) -> np.ndarray:
    """[H, W] in [0, 1], padded by 2 PAD: how much solid stands above, the nearer the darker."""
    solid = np.clip(field[PAD:] + 0.5, 0, 1)
    height = np.arange(len(solid), dtype=np.float32) / max(1, len(solid) - PAD)
    dark = (solid * np.exp(-2.2 * height)[:, None, None]).max(axis=0)
    dark = np.pad(dark, PAD)
    for spacing in (1, 2, 3, 5):
        if spacing == 1 or 20 * spacing <= max(field.shape):
            dark = blurred(dark, spacing, outside=0)
    return dark


def _bilinear(plane: np.ndarray, spot: np.ndarray) -> np.ndarray:
    """Values at spots [2, n] measured from the middle of the plane; its border is zero."""
    middle = (np.array(plane.shape, np.float32)[:, None] - 1) / 2
    points = np.concatenate([np.zeros_like(spot[:1]), spot + middle])
    return interpolate(np.stack([plane, plane]), points)


def _edges(depth: np.ndarray) -> np.ndarray:
    """Pixels beside an outline or a step in depth: what deserves more rays."""
    depth = np.minimum(depth, 1e4)  # a miss is far away
    edge = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        line, out = np.moveaxis(depth, axis, 0), np.moveaxis(edge, axis, 0)
        step = abs(line[1:] - line[:-1]) > 2
        out[1:] |= step
        out[:-1] |= step
    return edge


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    """uint8 RGBA of premultiplied float RGBA."""
    alpha = picture[..., 3:]
    straight = picture[..., :3] / np.maximum(alpha, 1e-6)
    return np.rint(np.concatenate([straight, alpha], axis=-1).clip(0, 1) * 255).astype(np.uint8)


def _marked_empty(rgba: np.ndarray) -> np.ndarray:
    size = len(rgba)
    image = Image.fromarray(rgba)
    font = ImageFont.load_default(max(9, size // 12))
    where = (size / 2, size / 2)
    ImageDraw.Draw(image).text(where, "empty", fill=(128, 136, 150, 255), font=font, anchor="mm")
    return np.asarray(image)

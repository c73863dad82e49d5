"""An orthographic camera and a ray march through a volume, in numpy.

Array order (z, y, x) throughout. z is up, azimuth 0 looks along +y with x to the right, and a
growing azimuth walks the viewer anticlockwise as seen from above.
"""

import math
from dataclasses import dataclass

import numpy as np

from ddiff.pages.view.fields import blurred, gradient, interpolate, padded
from ddiff.system.errors import ConfigError

AZIMUTH, ELEVATION = 30.0, 25.0
PAD = 3
STEP = 0.5  # voxels between looks at cells that hold the surface
REACH = 8  # voxels: one more than the longest jump through empty cells


@dataclass(frozen=True)
class Camera:
    """An orthonormal frame, and how many pixels a voxel covers."""

    right: np.ndarray
    up: np.ndarray
    toward: np.ndarray
    pixels_per_voxel: float


def camera(
    shape: tuple[int, ...], size: int, azimuth: float = AZIMUTH, elevation: float = ELEVATION
) -> Camera:
    """Degrees. The whole box fits at every azimuth, so the scale does not depend on it."""
    if not 8 <= size <= 4096 or not -90 <= elevation <= 90:
        raise ConfigError(
            f"size={size} must be 8 to 4096 pixels, and elevation={elevation} from -90 to 90"
        )
    a, e = math.radians(azimuth), math.radians(elevation)
    depth, height, width = shape
    across = math.hypot(height, width)
    tall = across * abs(math.sin(e)) + depth * math.cos(e)
    return Camera(
        right=np.array([0, math.sin(a), math.cos(a)], np.float32),
        up=np.array(
            [math.cos(e), math.cos(a) * math.sin(e), -math.sin(a) * math.sin(e)], np.float32
        ),
        toward=np.array(
            [math.sin(e), -math.cos(a) * math.cos(e), math.sin(a) * math.cos(e)], np.float32
        ),
        pixels_per_voxel=0.97 * size / max(across, tall),
    )


@dataclass(frozen=True)
class Scene:
    """A padded volume with what the march and the light need."""

    field: np.ndarray  # [D, H, W], the solid is > 0
    slopes: np.ndarray  # [D, H, W, 3], of the blurred field
    crowding: np.ndarray  # [D, H, W], the field blurred widely: how much solid is around
    jump: np.ndarray  # [D * H * W], voxels that a ray may safely advance; 0 where it must look
    box: np.ndarray  # [2, 3], bounds of the cells that hold the surface

    @property
    def solid(self) -> bool:
        return bool(self.box[1, 0] > 0)

    def open_sky(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """[n] in [0.25, 1]: less where solid crowds the space before surface points [3, n]."""
        crowd = interpolate(self.crowding, points + 3 * normals)
        return np.clip(1 - 0.65 * (crowd + 1), 0.25, 1)

    @classmethod
    def of(cls, volume: np.ndarray) -> "Scene":
        field = padded(volume, PAD)
        once = blurred(field)
        smooth = blurred(once, 2 if max(volume.shape) > 24 else 1)
        wide = blurred(blurred(smooth, 2), 3)
        field = _rounded(field, once)
        cells = _cells_in_reach(field > 0)
        near = cells == REACH
        box = np.zeros((2, 3), np.float32)
        if near.any():
            for axis in range(3):
                held = np.flatnonzero(near.any(axis=tuple({0, 1, 2} - {axis})))
                box[:, axis] = held[0], held[-1] + 1
        distance = np.arange(REACH, -1, -1, dtype=np.float32)  # of the value of `cells`
        jump = np.maximum(distance - 1, STEP)
        jump[distance == 0] = 0
        return cls(field, gradient(smooth), wide, jump[cells.ravel()], box)


def _rounded(field: np.ndarray, once: np.ndarray) -> np.ndarray:
    """Half blurred, which softens the steps of 0/1 solids, but no voxel changes sides or fades."""
    half = (field + once) / 2
    kept = np.clip(field, -0.4, 0.4)
    return np.where(field > 0, np.maximum(half, kept), np.minimum(half, kept))


def _cells_in_reach(inside: np.ndarray) -> np.ndarray:
    """uint8 [D, H, W]: REACH where a cell's corner is inside, less 1 for every cell away."""
    cell = inside.copy()
    for axis in range(3):
        line = np.moveaxis(cell, axis, 0)
        line[:-1] |= line[1:]
    total = cell.astype(np.uint8)
    for _ in range(REACH - 1):
        for axis in range(3):
            line = np.moveaxis(cell, axis, 0)
            grown = line.copy()
            grown[:-1] |= line[1:]
            grown[1:] |= line[:-1]
            line[...] = grown
        total += cell
    return total


def march(scene: Scene, start: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where each ray start [3, n] + t direction first meets the surface: t [n], or infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = (scene.box[:, :, None] - start) / direction[:, None]
    crossings[:, direction == 0] = np.array([-np.inf, np.inf])[:, None, None]
    near, far = crossings.min(axis=0).max(axis=0), crossings.max(axis=0).min(axis=0)
    aside = direction == 0
    outside = (start < scene.box[0, :, None]) | (start > scene.box[1, :, None])
    alive = np.flatnonzero((near < far) & ~outside[aside].any(axis=0))
    first, depth = start, np.full(start.shape[1], np.inf, np.float32)
    t, far, start = near[alive], far[alive], start[:, alive]
    _, height, width = scene.field.shape
    while len(alive):
        points = start + t * direction[:, None]
        z, y, x = points.astype(np.int32)
        jump = scene.jump[(z * height + y) * width + x]
        look = np.flatnonzero(jump == 0)
        met = look[interpolate(scene.field, points[:, look]) > 0]
        depth[alive[met]] = t[met]
        t = t + np.maximum(jump, STEP)
        t[met] = np.inf
        keep = t < far
        alive, t, far, start = alive[keep], t[keep], far[keep], start[:, keep]
    return refined(scene.field, first, direction, depth)


def refined(
    field: np.ndarray, start: np.ndarray, direction: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    """The crossing in the last STEP before each finite depth, bisected to 1/30 voxel."""
    hit = np.flatnonzero(np.isfinite(depth))
    start, end = start[:, hit], depth[hit]
    for step in (STEP / 2**k for k in range(1, 6)):
        inside = interpolate(field, start + (end - step) * direction[:, None]) > 0
        end = np.where(inside, end - step, end)
    depth[hit] = end
    return depth

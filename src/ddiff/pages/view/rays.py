"""An orthographic camera and a ray march through a volume, in numpy.

Array order (z, y, x) throughout. z is up, azimuth 0 looks along +y with x to the right, and a
growing azimuth walks the viewer anticlockwise as seen from above.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # it loads scipy.ndimage when that is first used: pages of images never do

from ddiff.system.errors import ConfigError

AZIMUTH, ELEVATION = 30.0, 25.0
OUTSIDE = -1.0  # what lies beyond the border, so that solids cut by it are closed
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
    sin_a, cos_a, sin_e, cos_e = math.sin(a), math.cos(a), math.sin(e), math.cos(e)
    depth, height, width = shape
    across = math.hypot(height, width)
    return Camera(
        right=np.array([0, sin_a, cos_a], np.float32),
        up=np.array([cos_e, cos_a * sin_e, -sin_a * sin_e], np.float32),
        toward=np.array([sin_e, -cos_a * cos_e, sin_a * cos_e], np.float32),
        pixels_per_voxel=0.97 * size / max(across, across * abs(sin_e) + depth * cos_e),
    )


@dataclass(frozen=True)
class Scene:
    """A padded volume with what the march and the light need."""

    field: np.ndarray  # [D, H, W], the solid is > 0
    slopes: tuple[np.ndarray, ...]  # of the blurred field along each axis, [D, H, W]
    crowding: np.ndarray  # [D, H, W], the field blurred widely: how much solid is around
    jump: np.ndarray  # [D, H, W], voxels that a ray may safely advance; 0 where it must look
    box: np.ndarray  # [2, 3], bounds of the cells that hold the surface

    @classmethod
    def of(cls, volume: np.ndarray) -> "Scene":
        field = np.pad(np.clip(volume, -1, 1), PAD, constant_values=OUTSIDE)
        once = blurred(field)
        smooth = blurred(once, 2 if max(volume.shape) > 24 else 1)
        wide = blurred(blurred(smooth, 2), 3)
        # half blurred, which softens the steps of 0/1 solids, but no voxel changes sides or fades
        half, kept = (field + once) / 2, np.clip(field, -0.4, 0.4)
        field = np.where(field > 0, np.maximum(half, kept), np.minimum(half, kept))
        # a cell between eight voxels holds the surface, or may, where one of them is solid
        surface = scipy.ndimage.maximum_filter(field > 0, 2, origin=-1, mode="nearest")
        places = np.argwhere(surface)
        box = [places.min(0), places.max(0) + 1] if len(places) else np.zeros((2, 3))
        away: Any = scipy.ndimage.distance_transform_cdt(np.logical_not(surface), "chessboard")
        jump = np.clip(away - 1, STEP, REACH - 1).astype(np.float32)
        jump[surface] = 0
        return cls(field, tuple(np.gradient(smooth, 0.5)), wide, jump, np.array(box, np.float32))

    @property
    def solid(self) -> bool:
        return bool(self.box[1, 0] > 0)

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Outward unit vectors [3, n] at surface points [3, n]."""
        slope = np.stack([interpolate(slopes, points) for slopes in self.slopes])
        return -slope / (np.linalg.norm(slope, axis=0) + 1e-6)

    def open_sky(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """[n] in [0.25, 1]: less where solid crowds the space before surface points [3, n]."""
        crowd = interpolate(self.crowding, points + 3 * normals)
        return np.clip(1 - 0.65 * (crowd + 1), 0.25, 1)


def blurred(field: np.ndarray, spacing: int = 1, outside: float = OUTSIDE) -> np.ndarray:
    """[1, 2, 1] / 4 along every axis, its taps `spacing` apart (standard deviation 0.7 spacing)."""
    taps = np.zeros(2 * spacing + 1)
    taps[[0, spacing, -1]] = 0.25, 0.5, 0.25
    for axis in range(field.ndim):
        field = scipy.ndimage.convolve1d(field, taps, axis, mode="constant", cval=outside)
    return field


def interpolate(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values [n], linear between voxels, at points [3, n]; beyond the border those of the border.
    Of a plane [H, W] at points [2, n] too."""
    return scipy.ndimage.map_coordinates(field, points, order=1, mode="nearest")


def march(scene: Scene, start: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Distance t [n] where each ray start [3, n] + t direction first meets the surface, or inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = (scene.box[:, :, None] - start) / direction[:, None]
    aside = direction == 0
    crossings[:, aside] = np.array([-np.inf, np.inf])[:, None, None]
    near, far = crossings.min(axis=0).max(axis=0), crossings.max(axis=0).min(axis=0)
    outside = (start < scene.box[0, :, None]) | (start > scene.box[1, :, None])
    alive = np.flatnonzero((near < far) & ~outside[aside].any(axis=0))
    depth = np.full(start.shape[1], np.inf, np.float32)
    t, far = near[alive], far[alive]
    while len(alive):
        points = start[:, alive] + t * direction[:, None]
        jump = scene.jump[tuple(points.astype(np.int32))]
        look = np.flatnonzero(jump == 0)
        met = look[interpolate(scene.field, points[:, look]) > 0]
        depth[alive[met]] = t[met]
        t = t + np.maximum(jump, STEP)
        t[met] = np.inf
        keep = t < far
        alive, t, far = alive[keep], t[keep], far[keep]
    hit = np.flatnonzero(np.isfinite(depth))
    end = depth[hit]
    for step in (STEP / 2**k for k in range(1, 6)):  # bisects the last STEP to 1/64 voxel
        inside = interpolate(scene.field, start[:, hit] + (end - step) * direction[:, None]) > 0
        end = np.where(inside, end - step, end)
    depth[hit] = end
    return depth

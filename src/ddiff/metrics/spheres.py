"""Fit of spheres to solids, and Kolmogorov-Smirnov tests of their radii and centres.

The fit is the sphere of highest intersection over union. It comes with the interval that its radius
is known up to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_1samp, ks_2samp, uniform

from ddiff.system.errors import DdiffError

COARSE, FINE = 0.25, 1 / 64  # between the radii tried, in voxels
SHELL = 2.0  # the fine search looks this far to both sides of the coarse sphere
MIN_STEP = 1 / 32


@dataclass(frozen=True)
class Sphere:
    """A sphere in voxels: voxel (i, j, k) belongs to it if |(i, j, k) - centre| <= radius."""

    iou: float
    centre: np.ndarray  # [3]
    radius: float


def best_sphere(solid: np.ndarray, centre: np.ndarray | None = None) -> Sphere:
    """Return the best-fitting sphere of `solid` [D, H, W], a boolean volume.

    It lies about `centre` if that is given. Its radius is at most half the shortest side, so that a
    full volume is no sphere. An empty volume has IoU and radius 0.
    """
    shape, points = solid.shape, np.array(np.nonzero(solid))
    if not points.size:
        middle = (np.array(shape) - 1) / 2
        return Sphere(0.0, middle if centre is None else np.asarray(centre, float), 0.0)
    if centre is not None:
        return _exact(points, shape, np.asarray(centre, float))
    starts, coarse = _starts(points, shape), _coarse(solid)
    guess, radius = _climb(coarse, max(starts, key=lambda start: coarse.best_radius(start)[0]))
    guess, _ = _climb(_shell(solid, guess, radius), guess)
    # if a sphere is centred on a voxel or its corner, its centre of mass is exactly there
    fits = [_exact(points, shape, centre) for centre in (starts[0], guess)]
    return max(fits, key=lambda fit: fit.iou)


def radius_interval(
    shape: tuple[int, ...], centre: np.ndarray, radius: float
) -> tuple[float, float]:
    """Return the interval [low, high) of all radii that fill the same voxels as `radius`.

    shape: of the volume.
    """
    d2 = _squared(_window(shape, centre, radius + 2), centre)
    inside = d2 <= radius**2
    low = float(np.sqrt(d2[inside].max())) if inside.any() else 0.0
    return low, float("inf") if inside.all() else float(np.sqrt(d2[~inside].min()))


def _window(shape: tuple[int, ...], centre: np.ndarray, radius: float) -> list[np.ndarray]:
    """Return the coordinates of the voxels that a ball may reach, per axis."""
    ends = zip(shape, np.floor(centre - radius), np.ceil(centre + radius) + 1, strict=True)
    return [np.arange(max(0, low), min(n, high), dtype=np.int64) for n, low, high in ends]


def _squared(axes: Sequence[np.ndarray], centre: np.ndarray) -> np.ndarray:
    d, h, w = ((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
    return d[:, None, None] + h[:, None] + w


def _exact(points: np.ndarray, shape: tuple[int, ...], centre: np.ndarray) -> Sphere:
    """Return the best sphere about `centre` for the solid voxels `points` [3, n].

    Every radius that matters is tried.
    """
    limit = min(shape) / 2
    inner = np.sort(sum((axis - c) ** 2 for axis, c in zip(points, centre, strict=True)))
    inner = inner[: np.searchsorted(inner, limit**2, "right")]
    if not len(inner):
        return Sphere(0.0, centre, 0.0)
    d2 = _squared(_window(shape, centre, np.sqrt(inner[-1])), centre)
    covered = np.searchsorted(np.sort(d2[d2 <= inner[-1]]), inner, "right")
    count = np.arange(1, len(inner) + 1)
    # of equal distances the last has the true count, and the highest IoU
    iou = count / (points.shape[1] + covered - count)
    best = int(iou.argmax())
    low, high = radius_interval(shape, centre, np.sqrt(inner[best]) * (1 + 1e-12))
    return Sphere(float(iou[best]), centre, min((low + high) / 2, limit))


def _starts(points: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return starting centres: the centre of mass, and the middle of the surface.

    The latter is right even if the border cuts the sphere.
    """
    mass = points.mean(1)
    corner, end = points.min(1), points.max(1) + 1
    padded = np.zeros(end - corner + 2, dtype=bool)
    padded[tuple(points - corner[:, None] + 1)] = True
    inner = np.stack([np.roll(padded, s, axis) for axis in range(3) for s in (1, -1)]).all(0)
    surface = (np.argwhere(padded & ~inner) + corner - 1).T
    faces = np.array(shape)[:, None] - 1
    surface = surface[:, ((surface > 0) & (surface < faces)).all(0)] - mass[:, None]
    if surface.shape[1] < 10:
        return [mass]
    # |p|^2 = 2 p.c + (r^2 - |c|^2) is linear in c
    design = np.concatenate([2 * surface, np.ones((1, surface.shape[1]))])
    solution, *_ = np.linalg.lstsq(design.T, (surface**2).sum(0), rcond=None)
    room = min(shape) / 2  # no sphere has a larger radius
    return [mass, (mass + solution[:3]).clip(-room, faces[:, 0] + room)]


@dataclass(frozen=True)
class _Cells:
    """Points that may change sides, and counts of what lies inside every sphere that is tried."""

    points: np.ndarray  # [3, n]
    solid: np.ndarray  # [n] solid voxels at each
    total: float  # solid voxels in all
    step: float  # between the radii tried
    high: float  # the largest radius
    reach: float  # a centre may be this far from the start
    low: float = 0.0
    size: float = 1.0  # voxels at each
    inside: float = 0.0
    solid_inside: float = 0.0

    def best_radius(self, centre: np.ndarray) -> tuple[float, float]:
        """Return the best IoU for a sphere about `centre`, and its radius.

        IoU(r) = in(r) / (total + all(r) - in(r)), by cumulative counts.
        """
        offset = self.points - centre[:, None].astype(np.float32)
        distance = np.sqrt(np.einsum("ij,ij->j", offset, offset))
        bins = int((self.high - self.low) / self.step) + 1
        index = np.ceil((distance - self.low) / self.step).astype(np.int64).clip(0, bins)
        solid = self.solid_inside + np.bincount(index, self.solid, bins + 1)[:bins].cumsum()
        every = self.inside + self.size * np.bincount(index, minlength=bins + 1)[:bins].cumsum()
        iou = solid / (self.total + every - solid)
        best = int(iou.argmax())
        return float(iou[best]), self.low + self.step * best


def _coarse(solid: np.ndarray) -> _Cells:
    """Return the cells of the coarse search: blocks of 2 x 2 x 2 voxels."""
    even = np.pad(solid, [(0, n % 2) for n in solid.shape])
    d, h, w = (n // 2 for n in even.shape)
    counts = even.reshape(d, 2, h, 2, w, 2).sum((1, 3, 5), dtype=np.float32)
    points = 2 * np.indices(counts.shape, dtype=np.float32).reshape(3, -1) + 0.5
    limit = min(solid.shape) / 2
    return _Cells(points, counts.ravel(), float(solid.sum()), COARSE, limit, limit, size=8.0)


def _shell(solid: np.ndarray, centre: np.ndarray, radius: float) -> _Cells:
    """Return the cells of the fine search: voxels near the surface.

    If the centre moves by no more than half of SHELL, all other voxels stay on their side.
    """
    axes = _window(solid.shape, centre, radius + SHELL)
    d2, solid_here = _squared(axes, centre), solid[np.ix_(*axes)]
    inside = d2 <= max(0.0, radius - SHELL) ** 2
    between = (d2 <= (radius + SHELL) ** 2) & ~inside
    corner = np.array([axis[0] for axis in axes])
    return _Cells(
        points=(np.array(np.nonzero(between)) + corner[:, None]).astype(np.float32),
        solid=solid_here[between].astype(np.float32),
        total=float(solid.sum()),
        step=FINE,
        high=min(radius + SHELL / 2, min(solid.shape) / 2),
        reach=SHELL / 2,
        low=max(0.0, radius - SHELL / 2),
        inside=float(inside.sum()),
        solid_inside=float(solid_here[inside].sum()),
    )


def _climb(cells: _Cells, start: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the best centre and radius, found along one axis after the other.

    The steps halve. The first step is the error of the centre if it explains the whole 1 - IoU: for
    balls of one radius, 1 - IoU is 1.5 distance / radius.
    """
    centre = start
    best, radius = cells.best_radius(start)
    last = max(MIN_STEP, cells.step / 2)
    step = min(max((1 - best) * radius / 1.5, 4 * last), cells.reach / 2)
    while step >= last:
        improved = False
        for move in np.concatenate([np.eye(3), -np.eye(3)]) * step:
            if np.linalg.norm(centre + move - start) <= cells.reach:
                score, r = cells.best_radius(centre + move)
                if score > best:
                    best, radius, centre, improved = score, r, centre + move, True
        if not improved:
            step /= 2
    return centre, radius


def uniform_test(values: ArrayLike, low: float, high: float) -> tuple[float, float]:
    """Kolmogorov-Smirnov test of `values` against the uniform law on [low, high]: D and p.

    D is the largest difference of the two distribution functions; p is the probability of one as
    large if that is the law.
    """
    if not low < high:
        raise DdiffError(f"no uniform law lies between {low} and {high}")
    numbers = np.clip((_numbers(values) - low) / (high - low), 0, 1)
    d, p = np.array(ks_1samp(numbers, uniform.cdf)).tolist()
    return d, p


def same_law(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Kolmogorov-Smirnov test of two samples: D and p.

    Ties make p too large: the test then rejects too rarely.
    """
    d, p = np.array(ks_2samp(_numbers(a), _numbers(b))).tolist()
    return d, p


def _numbers(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, float).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise DdiffError("a law can be tested on finite numbers only, and on one at least")
    return values


def drawn(intervals: np.ndarray, low: float, high: float, seed: int) -> np.ndarray:
    """Draw one number from each of `intervals` [N, 2], uniform in its part of [low, high].

    A volume tells its sphere's radius only up to an interval. Given the volume, a radius whose law
    is uniform on [low, high] is uniform in that interval. So the numbers have exactly that law
    again, without the ties that spoil a test. An interval outside [low, high] is used as it is.
    """
    starts, ends = np.asarray(intervals, float).reshape(-1, 2).T
    meets = (starts < high) & (ends > low)
    starts = np.where(meets, np.maximum(starts, low), starts)
    ends = np.where(meets, np.minimum(ends, high), ends)
    return np.random.default_rng(seed).uniform(starts, ends)


def centred(centre: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    """Centres [N, 3] as parts of the way from the volume's middle to where the ball touches a face.

    centre: [N, 3] in voxels, of balls of `radius` [N] in a volume of side `size`. The result is
        [N, 3], in [-1, 1] inside. It is uniform, given the radius, if the centre is uniform in the
        room that the ball has.
    """
    room = np.maximum(size / 2 - np.asarray(radius, float), 1e-6)
    return (np.asarray(centre, float) - (size - 1) / 2) / room[:, None]

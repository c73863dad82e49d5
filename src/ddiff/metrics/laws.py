"""Do numbers follow their law? Kolmogorov-Smirnov tests."""

import numpy as np
from scipy.stats import ks_1samp, ks_2samp, uniform

from ddiff.system.errors import DdiffError


def uniform_test(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The largest difference D of the distribution functions of `values` and of the uniform law on
    [low, high], and the probability p of one as large if that is their law."""
    if not low < high:
        raise DdiffError(f"no uniform law lies between {low} and {high}")
    numbers = np.clip((_numbers(values) - low) / (high - low), 0, 1)
    d, p = np.array(ks_1samp(numbers, uniform.cdf)).tolist()
    return d, p


def same_law(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """D and p of two samples. Ties make p too large: the test then rejects too rarely."""
    d, p = np.array(ks_2samp(_numbers(a), _numbers(b))).tolist()
    return d, p


def drawn(intervals: np.ndarray, low: float, high: float, seed: int) -> np.ndarray:
    """One number from each of `intervals` [N, 2], uniform in its part of [low, high].

    A volume tells its sphere's radius only up to an interval. Given the volume, a radius whose law
    is uniform on [low, high] is uniform there: what is drawn has exactly that law again, without
    the ties that spoil a test. An interval outside [low, high] is used as it is.
    """
    starts, ends = np.asarray(intervals, float).reshape(-1, 2).T
    meets = (starts < high) & (ends > low)
    starts = np.where(meets, np.maximum(starts, low), starts)
    ends = np.where(meets, np.minimum(ends, high), ends)
    return np.random.default_rng(seed).uniform(starts, ends)


def centred(centre: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    """Centres [N, 3] of balls of `radius` [N] in a volume of side `size`, in voxels, as parts of
    the way from its middle to where the ball touches a face: [N, 3], in [-1, 1] inside.

    They are uniform, given the radius, where the centre is uniform in what room the ball has.
    """
    room = np.maximum(size / 2 - np.asarray(radius, float), 1e-6)
    return (np.asarray(centre, float) - (size - 1) / 2) / room[:, None]


def _numbers(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise DdiffError("a law can be tested on finite numbers only, and on one at least")
    return values

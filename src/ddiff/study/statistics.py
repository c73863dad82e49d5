"""Differences between variants, paired by seed: intervals, verdicts, and what they could have seen.

Runs of one seed share data, batches and noise where that is possible, so a variant is compared with
the first one seed by seed. Intervals are Student's, at a level that is shared out among the
comparisons (Bonferroni): of variants that are the same, the chance that any of them is called
different is at most 1 - confidence. Correlation between the comparisons only lowers it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy import optimize, stats

POWER = 0.8  # the chance to be found, where a size or a number of seeds is promised
SHOWN = 0.01  # the relative difference that `seeds_to_show` is about
MOST_SEEDS = 10_000

Verdict = Literal["better", "worse", "no difference seen", "too few seeds"]


@dataclass(frozen=True)
class Difference:
    """Difference of a variant from the first one, over the seeds that both have.

    `relative`: the numbers are parts of the first one's figure (0.02: 2% more). Otherwise they are
    in the figure's own unit, as for figures that are not all above 0.
    """

    mean: float
    low: float | None  # None: fewer than two seeds
    high: float | None
    relative: bool
    each: tuple[float, ...]  # of every seed
    deviation: float  # of the paired differences (of log-ratios where relative)
    alpha: float  # of this comparison, two-sided
    one_percent: float  # in the unit of `deviation`

    @property
    def seeds(self) -> int:
        return len(self.each)

    @property
    def most(self) -> float | None:
        """The largest difference, in either direction, that the interval admits."""
        if self.low is None or self.high is None:
            return None
        return max(abs(self.low), abs(self.high))

    @property
    def detectable(self) -> float | None:
        """The size of a true difference that is found with a chance of 80%."""
        if self.seeds < 2:
            return None
        size = detectable(self.seeds, self.deviation, self.alpha)
        return math.expm1(size) if self.relative else size

    @property
    def seeds_to_show(self) -> int | None:
        """The number of seeds at which a difference of 1% is found with a chance of 80%."""
        if self.seeds < 2:
            return None
        return seeds_to_show(self.one_percent, self.deviation, self.alpha)

    def verdict(self, better: Literal["lower", "higher"]) -> Verdict:
        if self.low is None or self.high is None:
            return "too few seeds"
        if self.low <= 0 <= self.high:
            return "no difference seen"
        return "better" if (self.mean < 0) == (better == "lower") else "worse"


def difference(
    first: Mapping[int, float],
    other: Mapping[int, float],
    comparisons: int = 1,
    confidence: float = 0.95,
    relative: bool = True,
) -> Difference | None:
    """The difference of two variants whose figures are given by seed; None without a common seed.

    comparisons: the number of variants that are compared with the first one. relative: parts of
    the first one's figure, where all figures are above 0; else the figure's own unit.
    """
    seeds = sorted(s for s in first.keys() & other.keys() if _finite(first[s], other[s]))
    if not seeds:
        return None
    a, b = (np.array([figures[s] for s in seeds], dtype=np.float64) for figures in (first, other))
    relative = bool(relative and (a > 0).all() and (b > 0).all())
    apart = np.log(b / a) if relative else b - a
    shown = math.log1p(SHOWN) if relative else SHOWN * abs(float(a.mean()))
    alpha = (1 - confidence) / comparisons

    def plain(value: float) -> float:
        return math.expm1(value) if relative else value

    mean, n = float(apart.mean()), len(apart)
    each = tuple(plain(float(value)) for value in apart)
    if n < 2:
        return Difference(plain(mean), None, None, relative, each, math.nan, alpha, shown)
    deviation = float(apart.std(ddof=1))
    reach = float(stats.t.isf(alpha / 2, n - 1)) * deviation / math.sqrt(n)
    low, high = plain(mean - reach), plain(mean + reach)
    return Difference(plain(mean), low, high, relative, each, deviation, alpha, shown)


def power(n: int, size: float, deviation: float, alpha: float) -> float:
    """The chance that a paired t-test of n seeds finds a true difference of this size.

    deviation: the standard deviation of the paired differences. alpha: two-sided.
    """
    if deviation == 0:
        return 1.0 if size else alpha
    shift = abs(size) / deviation * math.sqrt(n)
    # Student's t is a normal number over an estimated spread; scipy's nct is NaN at large shifts
    edge = stats.t.isf(alpha / 2, n - 1) * _spreads(n - 1)
    return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)).mean())


@cache
def _spreads(freedom: int) -> np.ndarray:
    """Quantiles of an estimated over the true spread, in the middles of 2,000 equal parts."""
    return np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)


def detectable(n: int, deviation: float, alpha: float) -> float:
    """The size of a true difference that n seeds find with a chance of 80%."""
    if deviation == 0:
        return 0.0
    return _detectable_spreads(n, alpha) * deviation


@cache
def _detectable_spreads(n: int, alpha: float) -> float:
    found = optimize.brentq(lambda size: power(n, size, 1.0, alpha) - POWER, 0.0, 1e4)
    assert isinstance(found, float)
    return found


def seeds_to_show(size: float, deviation: float, alpha: float) -> int | None:
    """The smallest number of seeds that finds a difference of this size with a chance of 80%.

    None: more than 10,000, or the size is 0.
    """
    if size <= 0:
        return None
    low, high = 1, 2
    while power(high, size, deviation, alpha) < POWER:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, size, deviation, alpha) < POWER:
            low = middle
        else:
            high = middle
    return high


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    """Mean, and half the width of its Student interval over seeds (None for a single value)."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return float(found.mean()), None
    edge = float(stats.t.isf((1 - confidence) / 2, len(found) - 1))
    return float(found.mean()), edge * float(found.std(ddof=1)) / math.sqrt(len(found))


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)

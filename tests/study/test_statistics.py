"""The statistics of studies: closed forms, scipy's own tests, and simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from ddiff.study.statistics import (
    Difference,
    detectable,
    difference,
    interval,
    power,
    seeds_to_show,
)


def by_seed(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


def test_the_interval_is_scipy_s_of_paired_log_ratios() -> None:
    a = np.array([0.20, 0.22, 0.21, 0.25])
    b = a * np.array([1.02, 1.05, 0.99, 1.04])
    found = difference(by_seed(a), by_seed(b), comparisons=3)
    assert found is not None
    assert found.relative
    assert found.seeds == 4
    test = stats.ttest_1samp(np.log(b / a), 0)
    low, high = test.confidence_interval(1 - 0.05 / 3)
    assert found.low == pytest.approx(math.expm1(low), rel=1e-12)
    assert found.high == pytest.approx(math.expm1(high), rel=1e-12)
    assert found.mean == pytest.approx(math.expm1(np.log(b / a).mean()), rel=1e-12)


def test_figures_below_zero_are_compared_in_their_own_unit() -> None:
    found = difference({0: -0.5, 1: 0.5, 2: 0.1}, {0: 0.5, 1: 1.6, 2: 1.0})
    assert found is not None
    assert not found.relative
    assert found.mean == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (-0.03, -0.01, "lower", "better"),
        (-0.03, -0.01, "higher", "worse"),
        (0.01, 0.03, "lower", "worse"),
        (0.01, 0.03, "higher", "better"),
        (-0.01, 0.03, "lower", "no difference seen"),
        (None, None, "lower", "too few seeds"),
    ],
)
def test_verdicts(low: float | None, high: float | None, better, verdict: str) -> None:
    mean = 0.0 if low is None or high is None else (low + high) / 2
    assert (
        Difference(mean, low, high, True, (mean,) * 3, 0.01, 0.05, 0.01).verdict(better) == verdict
    )


def test_seeds_without_a_partner_are_left_out() -> None:
    found = difference({0: 1.0, 1: 1.0, 2: 1.0}, {1: 1.1, 2: 1.1, 3: 9.0})
    assert found is not None
    assert found.seeds == 2
    assert found.mean == pytest.approx(0.1)
    assert difference({0: 1.0}, {1: 1.0}) is None
    assert difference({0: 1.0}, {0: math.nan}) is None


def test_variants_that_are_the_same_to_the_bit() -> None:
    found = difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert found is not None
    assert (found.mean, found.low, found.high, found.detectable) == (0, 0, 0, 0)
    assert found.verdict("lower") == "no difference seen"


def test_one_seed_says_nothing() -> None:
    found = difference({0: 1.0}, {0: 0.5})
    assert found is not None
    assert found.verdict("lower") == "too few seeds"


def test_power_is_that_of_the_noncentral_t_in_simulation() -> None:
    random = np.random.default_rng(0)
    x = random.normal(1.0, 1.0, (20_000, 6))
    found = np.abs(x.mean(1) / (x.std(1, ddof=1) / 6**0.5)) > stats.t.isf(0.025, 5)
    assert power(6, 1.0, 1.0, 0.05) == pytest.approx(found.mean(), abs=0.01)
    assert power(6, 0.0, 1.0, 0.05) == pytest.approx(0.05, abs=1e-4)


def test_what_is_detectable_and_the_seeds_that_show_it_agree() -> None:
    assert power(7, detectable(7, 0.3, 0.01), 0.3, 0.01) == pytest.approx(0.8, abs=1e-6)
    n = seeds_to_show(0.01, 0.02, 0.05)
    assert n == 34  # (1.96 + 0.84)^2 * 4 = 31.4, and t instead of z
    assert power(n, 0.01, 0.02, 0.05) >= 0.8 > power(n - 1, 0.01, 0.02, 0.05)
    assert seeds_to_show(0.0, 0.02, 0.05) is None
    assert seeds_to_show(1e-9, 1.0, 0.05) is None


def test_interval_over_seeds() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.30265 / 3**0.5), rel=1e-5)
    assert interval([5.0]) == (5.0, None)


def studies(
    repeats: int, variants: int, seeds: int, planted: float, heavy: bool = False
) -> list[list[Difference]]:
    """Simulated studies: a seed moves all variants alike by 3%, and each by 1% of its own.

    The last variant is better than the others by `planted`.
    """
    random = np.random.default_rng(1)
    found = []
    for _ in range(repeats):
        own = random.standard_t(4, (variants, seeds)) if heavy else None
        own = random.standard_normal((variants, seeds)) if own is None else own
        loss = 0.2 * np.exp(0.03 * random.standard_normal(seeds) + 0.01 * own)
        loss[-1] *= math.exp(-planted)
        pairs = [difference(by_seed(loss[0]), by_seed(x), variants - 1) for x in loss[1:]]
        found.append([pair for pair in pairs if pair is not None])
    return found


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("heavy", [False, True])
def test_of_variants_that_are_the_same_at_most_5_percent_of_studies_claim_one(
    seeds: int, heavy: bool
) -> None:
    repeats = 2000
    claims = [
        any(d.verdict("lower") != "no difference seen" for d in study)
        for study in studies(repeats, 5, seeds, planted=0.0, heavy=heavy)
    ]
    assert np.mean(claims) <= 0.05 + 2 * (0.05 * 0.95 / repeats) ** 0.5
    assert np.mean(claims) > 0.01  # the correction is not a refusal to speak


def test_a_planted_difference_of_two_spreads_is_found_as_often_as_promised() -> None:
    spread = 0.01 * 2**0.5  # of the paired differences
    found = studies(2000, 5, 5, planted=2 * spread)
    rate = np.mean([study[-1].verdict("lower") == "better" for study in found])
    assert rate == pytest.approx(power(5, 2 * spread, spread, 0.05 / 4), abs=0.03)
    again = studies(2000, 5, 8, planted=2 * spread)
    rate = np.mean([study[-1].verdict("lower") == "better" for study in again])
    assert rate > 0.9

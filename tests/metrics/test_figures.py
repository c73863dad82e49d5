"""Intervals that cover, protocols that tell figures apart."""

import numpy as np
import pytest
from scipy.stats import binomtest

from ddiff.metrics.figures import (
    Figure,
    bootstrap,
    mean_figure,
    share_figure,
    wilson,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (7, 20), (500, 500), (499, 500)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    values = np.arange(n) < successes
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(values) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_bootstrap_interval_covers_the_mean_19_times_of_20() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = bootstrap(random.exponential(size=60), seed=seed, repeats=200)
        covered += low <= 1 <= high
    assert 0.88 <= covered / 200 <= 0.98


def test_the_centred_interval_holds_the_statistic_that_bias_would_push_out() -> None:
    values = np.random.default_rng(2).normal(size=200)

    def distinct(v: np.ndarray) -> float:  # every draw with replacement loses a third
        return len(np.unique(v))

    low, high = bootstrap(values, distinct, repeats=200, centred=True)
    assert low < 200 < high
    assert bootstrap(values, distinct)[1] < 150


def test_a_share_of_ones_has_an_interval_of_some_width() -> None:
    figure = share_figure("validity", np.ones(100), {}, "higher")
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low == pytest.approx(0.963, abs=0.001)
    none = share_figure("validity", np.zeros(1000), {}, "higher")
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.00383, abs=1e-5)


def test_a_mean_that_happens_to_be_0_or_1_is_no_share() -> None:
    """Distances of copies are all 0, and an interval up to 0.4% would be one of counts."""
    for value in (0.0, 1.0):
        figure = mean_figure("nearest_train", np.full(1000, value), {}, None, seed=0)
        assert (figure.value, figure.low, figure.high) == (value, value, value)
    mixed = np.repeat([0.0, 1.0], [30, 10])
    found = mean_figure("nearest_train", mixed, {}, None, seed=0)
    assert (found.low, found.high) == bootstrap(mixed, seed=0) != wilson(mixed)


def test_a_share_with_ties_keeps_wilsons_interval() -> None:
    values = np.array([1.0, 1.0, 0.5, 0.0])
    assert share_figure("one_nn", values, {}, None).low == wilson(values)[0] > 0


def test_an_infinite_mean_has_no_interval() -> None:
    figure = mean_figure("psnr_mean", np.array([30.0, np.inf]), {}, "higher", seed=0)
    assert (figure.value, figure.low, figure.high) == (np.inf, None, None)


def test_figures_of_other_protocols_are_told_apart() -> None:
    a = Figure("fid", 3.0, 1000, {"extractor": "x", "reference": "r"})
    assert (
        a.protocol_id == Figure("fid", 9.0, 1000, {"reference": "r", "extractor": "x"}).protocol_id
    )
    others = [
        Figure("fid", 3.0, 999, {"extractor": "x", "reference": "r"}),
        Figure("kid", 3.0, 1000, {"extractor": "x", "reference": "r"}),
        Figure("fid", 3.0, 1000, {"extractor": "y", "reference": "r"}),
    ]
    assert len({a.protocol_id, *(other.protocol_id for other in others)}) == 4

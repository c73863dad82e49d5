"""Known laws pass at the level of the test, wrong ones do not."""

from functools import cache

import numpy as np
import pytest
import torch

from ddiff.data.spheres import Spheres
from ddiff.metrics.spheres import (
    best_sphere,
    centred,
    drawn,
    radius_interval,
    same_law,
    uniform_test,
)
from ddiff.system.errors import DdiffError

REPEATS, EACH = 200, 6
FIXED, RANDOM = 24, 20  # sizes; radii are uniform in 1/8 to 1/4 of these


@cache
def fixed() -> np.ndarray:
    """The interval [low, high) of the radius of each of many spheres in the middle."""
    data = Spheres(1, seed=0, size=FIXED, num=REPEATS * EACH, centre="fixed")
    source, _ = data.sources()
    middle = np.full(3, (FIXED - 1) / 2)
    intervals, known = [], {}
    for row in range(len(source)):
        solid = source.batch(torch.tensor([row]))[0][0, 0].numpy() > 0
        count = int(solid.sum())
        if count not in known:
            fit = best_sphere(solid, middle)
            assert fit.iou == 1
            known[count] = radius_interval(solid.shape, middle, fit.radius)
        intervals.append(known[count])
    return np.array(intervals)


@cache
def anywhere() -> tuple[np.ndarray, np.ndarray]:
    """Centres and radii of fits to many spheres anywhere."""
    data = Spheres(1, seed=0, size=RANDOM, num=REPEATS * EACH, centre="random")
    source, _ = data.sources()
    rows = (source.batch(torch.tensor([i]))[0][0, 0].numpy() > 0 for i in range(len(source)))
    fits = [best_sphere(solid) for solid in rows]
    return np.array([fit.centre for fit in fits]), np.array([fit.radius for fit in fits])


def passes_at_its_level(values: np.ndarray, low: float, high: float) -> None:
    """p-values of groups are uniform, and the group of all is not rejected."""
    p = [uniform_test(group, low, high)[1] for group in values.reshape(REPEATS, EACH)]
    assert uniform_test(np.array(p), 0, 1)[1] > 0.01
    assert 1 <= np.sum(np.array(p) < 0.05) <= 21  # binomial of 200 and 0.05, in 4 deviations
    assert uniform_test(values, low, high)[1] > 0.01


def rejected(values: np.ndarray, low: float, high: float) -> bool:
    return uniform_test(values, low, high)[1] < 1e-6


def test_radii_about_a_fixed_centre() -> None:
    low, high = FIXED / 8, FIXED / 4
    radii = drawn(fixed(), low, high, seed=0)
    passes_at_its_level(radii, low, high)
    assert rejected(drawn(fixed()[:, [0, 0]], low, high, 0), low, high)  # ties, were none drawn
    margin = (high - low) / 10
    narrow = (fixed() > low + margin).all(1) & (fixed() < high - margin).all(1)
    assert rejected(radii[narrow], low, high)


def test_radii_and_centres_anywhere() -> None:
    low, high = RANDOM / 8, RANDOM / 4
    centres, radii = anywhere()
    passes_at_its_level(radii, low, high)
    inner = np.abs(radii - (low + high) / 2) < 0.4 * (high - low)
    assert rejected(radii[inner], low, high)
    offsets = centred(centres, radii, RANDOM)
    for axis in range(3):
        passes_at_its_level(offsets[:, axis], -1, 1)
    assert rejected(offsets[:, 0] * 0.8, -1, 1)


def test_d_is_the_largest_gap() -> None:
    values = np.array([0.5, 2.0, 2.5, 3.9])
    # against the law's (x - low) / (high - low) the steps k / 4 gap most just below 2: 1/2 - 1/4
    assert uniform_test(values, 0, 4)[0] == pytest.approx(0.25)
    assert uniform_test(values + 100, 0, 4) == (1, 0)
    assert same_law(np.array([1, 2, 3]), np.array([2.5, 4, 5]))[0] == pytest.approx(2 / 3)
    assert same_law(np.arange(3), np.arange(3) + 10)[1] == pytest.approx(
        2 / 20
    )  # of C(6, 3) orders


def test_two_samples_of_one_law() -> None:
    random = np.random.default_rng(0)
    p = [same_law(random.normal(size=50), random.normal(size=60))[1] for _ in range(400)]
    assert uniform_test(np.array(p), 0, 1)[1] > 0.01
    assert same_law(random.normal(size=400), random.normal(size=400) * 1.5)[1] < 1e-3


def test_what_is_drawn_lies_in_the_law_and_in_the_interval() -> None:
    intervals = np.array([[1.0, 3.0], [7.0, 9.0], [4.0, 5.0], [20.0, 21.0]] * 500)
    values = drawn(intervals, 2.0, 8.0, seed=1).reshape(500, 4)
    for column, (low, high) in enumerate([(2, 3), (7, 8), (4, 5), (20, 21)]):
        assert uniform_test(values[:, column], low, high)[1] > 0.01
    np.testing.assert_array_equal(drawn(intervals, 2.0, 8.0, seed=1), values.ravel())


def test_offsets_in_closed_form() -> None:
    # touching two faces, and in the middle
    centre = np.array([[3.5, 15.5, 27.5], [15.5, 15.5, 15.5]])
    expected = [[-1, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(centred(centre, np.array([4.0, 9.0]), 32), expected)
    assert abs(centred(centre[:1] - 1, np.array([4.0]), 32)[0, 0]) > 1


@pytest.mark.parametrize("values", [[], [0.5, np.nan]])
def test_no_numbers_no_test(values: list[float]) -> None:
    with pytest.raises(DdiffError, match="finite numbers"):
        uniform_test(np.array(values), 0, 1)
    with pytest.raises(DdiffError, match="finite numbers"):
        same_law(np.array(values), np.ones(3))


def test_a_point_is_no_uniform_law() -> None:
    with pytest.raises(DdiffError, match="between 2 and 2"):
        uniform_test(np.ones(3), 2, 2)

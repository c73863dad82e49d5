"""Against loops over small sets, with ties; and known laws, blurred and collapsed samples."""

import numpy as np
import pytest

from ddiff.metrics.by_pairs import closer_share
from ddiff.metrics.sets import (
    coverage,
    one_nearest_neighbour_accuracy,
)
from ddiff.system.errors import DdiffError


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a[:, None] - b[None]).sum(-1)


def accuracy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return one_nearest_neighbour_accuracy(distances(a, a), distances(a, b), distances(b, b))


def broken_at_random(a: np.ndarray, b: np.ndarray, random: np.random.Generator) -> list[list[int]]:
    """One drawing of coverage and 1-NN hits, ties broken by a coin."""
    covered = [0] * len(a)
    for y in b:
        order = random.permutation(len(a))
        covered[order[np.argmin([np.abs(a[i] - y).sum() for i in order])]] = 1
    pool = [*((x, 0) for x in a), *((y, 1) for y in b)]
    hits = []
    for i, (x, own) in enumerate(pool):
        order = [j for j in random.permutation(len(pool)) if j != i]
        hits.append(int(pool[min(order, key=lambda j: np.abs(pool[j][0] - x).sum())][1] == own))
    return [covered, hits]


@pytest.mark.parametrize("values", [3, 10_000])  # many ties, and next to none
def test_against_loops(values: int) -> None:
    random = np.random.default_rng(values)
    a, b = random.integers(0, values, (2, 7, 2))
    covered, hits = zip(*(broken_at_random(a, b, random) for _ in range(1500)), strict=True)
    d = distances(a, b)
    four_deviations = 4 * 0.5 / 1500**0.5
    np.testing.assert_allclose(coverage(d), np.mean(covered, 0), atol=four_deviations)
    np.testing.assert_allclose(accuracy(a, b), np.mean(hits, 0), atol=four_deviations)


def test_ties_by_hand() -> None:
    # both references are equal and one is generated: either is covered with probability 1/2
    np.testing.assert_allclose(coverage(np.array([[0.0], [0.0]])), [0.5, 0.5])
    np.testing.assert_allclose(coverage(np.array([[0.0, 0.0], [0.0, 0.0]])), [0.75, 0.75])
    # everything equal: each item has 2 neighbours of its own and 3 others
    same = np.zeros((3, 3))
    np.testing.assert_allclose(one_nearest_neighbour_accuracy(same, same, same), 0.4)


@pytest.mark.parametrize("levels", [None, 40])  # levels: as few different volumes as spheres have
def test_one_law_is_even(levels: int | None) -> None:
    random = np.random.default_rng(0)
    shares = []
    for _ in range(40):
        a, b = random.random((2, 100, 2 if levels is None else 1))
        if levels:
            a, b = np.floor(a * levels), np.floor(b * levels)
        shares.append(accuracy(a, b).mean())
    # 8000 items, which come in pairs of mutual neighbours: variance up to twice the binomial one
    assert np.mean(shares) == pytest.approx(99 / 199, abs=4 * 0.5 * (2 / 8000) ** 0.5)
    inside = np.abs(np.array(shares) - 99 / 199) < 2 * 0.5 * (2 / 200) ** 0.5
    assert inside.mean() >= 0.85  # two deviations or more: 95%


def test_wrong_laws_are_seen() -> None:
    random = np.random.default_rng(1)
    true, again = random.normal(size=(2, 200, 3))
    assert accuracy(true, again + 4).mean() > 0.97
    assert accuracy(true, 0.1 * again).mean() > 0.75
    collapsed = np.repeat(again[:1], 200, 0)
    copied = np.repeat(true[:1], 200, 0)
    assert coverage(distances(true, again)).mean() > 0.45
    assert coverage(distances(true, collapsed)).sum() == 1
    assert accuracy(true, collapsed).mean() > 0.95
    assert accuracy(true, copied).mean() > 0.95
    matching = [distances(true, x).min(1).mean() for x in (again, collapsed)]
    assert matching[1] > 3 * matching[0]


def test_sets_of_two_sizes_are_refused() -> None:
    with pytest.raises(DdiffError, match="equal number"):
        one_nearest_neighbour_accuracy(np.zeros((3, 3)), np.zeros((3, 4)), np.zeros((4, 4)))


def test_closer_share_is_the_share_of_pairs() -> None:
    random = np.random.default_rng(2)
    samples, held_out = random.integers(0, 6, 31), random.integers(0, 6, 17)
    pairs = [1.0 if s < h else 0.5 if s == h else 0.0 for s in samples for h in held_out]
    share, low, high = closer_share(samples, held_out)
    assert share == pytest.approx(np.mean(pairs))
    assert low < share < high


def test_copies_are_seen_and_fresh_samples_are_not() -> None:
    random = np.random.default_rng(3)
    train, other = random.normal(size=(300, 3)), random.normal(size=(100, 3))
    covering = []
    for seed in range(30):
        fresh, held_out = random.normal(size=(2, 100, 3))
        nearest, known = (distances(x, train).min(1) for x in (fresh, held_out))
        _, low, high = closer_share(nearest, known, seed=seed, repeats=200)
        covering.append(low <= 0.5 <= high)
        assert high - low < 0.25
    assert sum(covering) >= 25  # 95% of 30 is 28.5
    copies = train[:100] + 0.01 * random.normal(size=(100, 3))
    share, low, _ = closer_share(distances(copies, train).min(1), distances(other, train).min(1))
    assert share > 0.98
    assert low > 0.95

"""Against plain loops; known cases; blocks smaller than the sets."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ddiff.metrics import pairs
from ddiff.metrics.by_features import density_coverage, precision_recall
from ddiff.system.errors import ConfigError


def normal(n: int, seed: int, scale: float = 1.0, mean: float = 0.0, dim: int = 4) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, dim, generator=g)


def radius(x: np.ndarray, i: int, k: int) -> float:
    return sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if j != i)[k - 1]


def balls_around(point: np.ndarray, centres: np.ndarray, k: int) -> list[bool]:
    return [bool(np.linalg.norm(point - c) <= radius(centres, i, k)) for i, c in enumerate(centres)]


@pytest.mark.parametrize("rows", [2048, 7])
@pytest.mark.parametrize("k", [1, 3])
def test_plain_loops_agree(monkeypatch: pytest.MonkeyPatch, rows: int, k: int):
    monkeypatch.setattr(pairs, "ROWS", rows)
    real, generated = normal(40, 0), normal(31, 1, 0.7, 0.5)
    r, g = real.double().numpy(), generated.double().numpy()
    holding = np.array([balls_around(p, r, k) for p in g])  # [M, N]
    recalled = [any(balls_around(p, g, k)) for p in r]

    precision, recall = precision_recall(real, generated, k)
    assert precision.tolist() == holding.any(1).tolist()
    assert recall.tolist() == recalled
    assert 0 < precision.sum() < 31
    assert 0 < recall.sum() < 40

    density, coverage = density_coverage(real, generated, k)
    np.testing.assert_allclose(density.numpy(), holding.sum(1) / k)
    assert coverage.tolist() == holding.any(0).tolist()


def means(real: Tensor, generated: Tensor) -> list[float]:
    figures = (*precision_recall(real, generated), *density_coverage(real, generated))
    return [float(figure.double().mean()) for figure in figures]


def test_one_law():
    precision, recall, density, coverage = means(normal(500, 2), normal(500, 3))
    assert precision == pytest.approx(recall, abs=0.1)
    assert min(precision, recall) > 0.7
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 2.0**-5, abs=0.03)  # Naeem et al. 2020, their Eq. 11


def test_collapsed_samples_are_precise_and_recall_nothing():
    precision, recall, _, coverage = means(normal(500, 4), normal(500, 5, 0.01))
    assert precision == 1
    assert recall < 0.02
    assert coverage < 0.1


def test_equal_samples_recall_nothing_but_their_like():
    real = normal(100, 6)
    _, recall = precision_recall(real, real[7].expand(50, -1))
    assert set(recall.nonzero().flatten().tolist()) <= {7}  # on the rim of balls of radius 0


def test_spread_samples_recall_and_are_not_precise():
    precision, recall, _, _ = means(normal(500, 7), normal(500, 8, 10))
    assert precision < 0.05
    assert recall > 0.95


def test_far_samples_have_nothing():
    assert means(normal(200, 9), normal(200, 10, mean=100)) == [0, 0, 0, 0]


def test_copies_have_everything():
    real = normal(100, 11)
    precision, recall, _, coverage = means(real, real.flip(0))
    assert (precision, recall, coverage) == (1, 1, 1)


def test_more_neighbours_than_samples_are_refused():
    with pytest.raises(ConfigError, match="k=3 neighbours of each of 3 samples"):
        precision_recall(normal(10, 0), normal(3, 1))

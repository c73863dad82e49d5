"""Against a double loop and torchmetrics; known cases."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from ddiff.metrics.by_features import kid
from ddiff.system.errors import ConfigError


def normal(n: int, dim: int, seed: int, mean: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=torch.float64) + mean


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Of all samples, which are a single subset."""
    return kid(x, y, subset_size=len(x), subsets=1)[0]


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    m, dim = x.shape
    total = 0.0
    for i in range(m):
        for j in range(m):
            if i != j:
                total += (x[i] @ x[j] / dim + 1) ** 3 / (m * (m - 1))
                total += (y[i] @ y[j] / dim + 1) ** 3 / (m * (m - 1))
            total -= 2 * (x[i] @ y[j] / dim + 1) ** 3 / m**2
    return total


def test_a_double_loop_and_torchmetrics_agree():
    x, y = normal(23, 5, 0), normal(23, 5, 1, 0.4)
    assert squared_mmd(x, y) == pytest.approx(by_loops(x.numpy(), y.numpy()), rel=1e-10)
    assert squared_mmd(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_single_precision_features_are_summed_in_double():
    x, y = normal(40, 6, 2, 30).float(), normal(40, 6, 3, 30).float()
    wanted = float(poly_mmd(x.double(), y.double()))
    assert squared_mmd(x, y) == pytest.approx(wanted, rel=1e-9)


def test_a_subset_of_everything_is_everything():
    x, y = normal(30, 4, 4), normal(30, 4, 5, 0.5)
    mean, deviation = kid(x, y, subset_size=30, subsets=3)
    assert mean == pytest.approx(squared_mmd(x, y), rel=1e-10)
    assert deviation < 1e-10  # were rows drawn twice, subsets would differ


def test_subsets_repeat_with_their_seed():
    x, y = normal(50, 4, 6), normal(70, 4, 7)
    assert kid(x, y, 20, 5, seed=1) == kid(x, y, 20, 5, seed=1)
    assert kid(x, y, 20, 5, seed=1) != kid(x, y, 20, 5, seed=2)


def test_one_law_is_at_no_distance_without_bias():
    """Over independent sets the mean is 0 within 3 of its standard errors, at any size."""
    for size in (5, 50):
        values = [squared_mmd(normal(size, 6, i), normal(size, 6, 1000 + i)) for i in range(300)]
        assert abs(np.mean(values)) < 3 * np.std(values) / 300**0.5
    mean, deviation = kid(normal(400, 6, 0), normal(400, 6, 1), 100, 50)
    assert abs(mean) < 2 * deviation


def test_another_mean_is_told_apart():
    mean, deviation = kid(normal(400, 6, 0), normal(400, 6, 1, 1.0), 100, 50)
    assert mean > 5 * deviation


@pytest.mark.parametrize("size", [1, 11])
def test_a_subset_larger_than_the_set_is_refused(size: int):
    with pytest.raises(ConfigError, match=f"subset_size={size} must lie between 2 and 10"):
        kid(normal(10, 3, 0), normal(20, 3, 1), size)

"""Power averages of weights against averaging directly, and what is made of their snapshots."""

import math

import numpy as np
import pytest
import torch

from ddiff.nets.averages import Profile, combination, combined, decay_of, power_of
from ddiff.system.errors import ConfigError

STEPS = 2000


def law(step: int, power: float) -> np.ndarray:
    """The share of each of 1..STEPS in the average after `step` steps, by the recursion itself."""
    shares = np.zeros(STEPS)
    for k in range(1, step + 1):
        beta = decay_of(k, power)
        shares *= beta
        shares[k - 1] += 1 - beta
    return shares


@pytest.mark.parametrize(("length", "power"), [(0.05, 16.97), (0.10, 6.94)])
def test_published_powers(length, power):
    """Karras et al. 2024, section 3: lengths of 5% and 10% have gamma = 16.97 and 6.94."""
    assert power_of(length) == pytest.approx(power, abs=5e-3)


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_length_is_the_spread_of_the_law(length):
    shares, k = law(STEPS, power_of(length)), np.arange(1, STEPS + 1)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    mean = (shares * k).sum()
    spread = math.sqrt((shares * (k - mean) ** 2).sum())
    assert spread / STEPS == pytest.approx(length, abs=1e-3)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3, 1.0])
def test_a_length_that_no_average_has(length):
    with pytest.raises(ConfigError, match=f"above 0 and at most 0.28, not {length}"):
        power_of(length)


@pytest.mark.parametrize("wanted", [0.03, 0.05, 0.07, 0.1, 0.15, 0.2])
def test_other_lengths_out_of_snapshots_of_two(wanted):
    """A walk of weights, averaged directly and put together from 20 snapshots of two averages."""
    random = torch.Generator().manual_seed(4)
    walk = torch.randn(STEPS, 8, generator=random, dtype=torch.float64).cumsum(0) / 20 + 3
    known, states = [], []
    for step in range(100, STEPS + 1, 100):
        for length in (0.05, 0.1):
            known.append(Profile(step, power_of(length)))
            states.append({"w": torch.from_numpy(law(step, power_of(length))) @ walk})
    factors, error = combination(known, Profile(STEPS, power_of(wanted)))
    made = combined(states, factors)["w"]
    direct = torch.from_numpy(law(STEPS, power_of(wanted))) @ walk
    last = (walk[-1] - direct).abs().mean()  # how much an average matters here
    assert error < 0.06
    assert (made - direct).abs().mean() < 0.02 * last
    assert factors.sum().item() == pytest.approx(1, abs=1e-6)


def test_a_length_that_is_kept_is_the_last_snapshot():
    known = [Profile(step, power_of(a)) for step in (500, 1000, 1500) for a in (0.05, 0.1)]
    factors, error = combination(known, Profile(1500, power_of(0.1)))
    assert factors.tolist() == pytest.approx([0, 0, 0, 0, 0, 1], abs=1e-7)
    assert error < 1e-6


def test_too_few_snapshots_are_told_by_the_error():
    known = [Profile(1500, power_of(a)) for a in (0.05, 0.1)]
    _, error = combination(known, Profile(1500, power_of(0.01)))
    assert error > 0.3

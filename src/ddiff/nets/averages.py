"""Averages of a net's weights over its training, and averages of any length made after it.

A power average after t steps weighs step k by about k^power (Karras et al. 2024):

    average_t = beta average_(t - 1) + (1 - beta) weights_t,    beta = (1 - 1 / t)^(power + 1)

Its length is the standard deviation of that law of k, as a share of t. A long training has a long
average, and the start is forgotten by itself. Snapshots of two such averages span the averages of
other lengths: each law is a combination of theirs, found by least squares.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddiff.system.bounds import LONGEST_AVERAGE, AverageLength
from ddiff.system.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """The law by which an average weighs the steps: (power + 1) k^power / step^(power + 1)."""

    step: int  # the number of steps that are averaged
    power: float


def power_of(length: AverageLength) -> float:
    """Return the power of the average of this length.

    length^2 = (p + 1) / ((p + 2)^2 (p + 3)), which falls as the power p rises from 0.
    """
    if not 0 < length <= LONGEST_AVERAGE:
        raise ConfigError(
            f"a length of averaged weights is above 0 and at most {LONGEST_AVERAGE}, not {length}"
        )
    low, high = 0.0, 1 / length**2  # at which the length is shorter than asked for
    for _ in range(100):
        middle = (low + high) / 2
        longer = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > length**2
        low, high = (middle, high) if longer else (low, middle)
    return low


def decay_of(step: int, power: float) -> float:
    """Return beta of step 1, 2, ..; 0 at first, so that the average starts at the weights."""
    return (1 - 1 / step) ** (power + 1)


def combination(known: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """Return the factors by which known averages add up to the wanted one, and the error.

    The factors add up to 1, as the shares of every law do: weights that never changed must come out
    as they are. The error is the root of the squared distance of the two laws over the squared
    wanted law.
    """
    n = len(known)
    gram = torch.tensor([[_overlap(a, b) for b in known] for a in known], dtype=torch.float64)
    target = torch.tensor([_overlap(a, wanted) for a in known], dtype=torch.float64)
    # least squares with the sum as a condition, scaled to weigh like the rest
    scale = gram.trace() / n
    system = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n], system[n, :n], system[:n, n] = gram, scale, scale
    factors = (torch.linalg.pinv(system, rtol=1e-12) @ torch.cat([target, scale.view(1)]))[:n]
    norm = _overlap(wanted, wanted)
    left = norm - 2 * factors @ target + factors @ gram @ factors
    return factors, math.sqrt(max(left.item(), 0.0) / norm)


def combined(states: Sequence[Mapping[str, Tensor]], factors: Tensor) -> dict[str, Tensor]:
    """Return the sum of the averages, each times its factor, added up in float64."""
    total: dict[str, Tensor] = {}
    for state, factor in zip(states, factors.tolist(), strict=True):
        for name, value in state.items():
            part = value.double() * factor
            total[name] = total[name] + part if name in total else part
    return {name: value.to(states[0][name].dtype) for name, value in total.items()}


def _overlap(a: Profile, b: Profile) -> float:
    """The integral of the product of two laws."""
    early, late = (a, b) if a.step <= b.step else (b, a)
    ratio = (early.step / late.step) ** late.power
    return (a.power + 1) * (b.power + 1) * ratio / ((a.power + b.power + 1) * late.step)

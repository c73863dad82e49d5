"""Scores for bins (groups of neighbouring timesteps), averaged over what training measures."""

from typing import Annotated

import torch
from torch import Tensor, nn

from ddiff.system.bounds import At
from ddiff.system.errors import ConfigError

Number = Annotated[int, At(least=1, most=10_000)] | None
Decay = Annotated[float, At(least=0, below=1)]


class Bins(nn.Module):
    """A partition of T timesteps into `number` bins of nearly equal size (None: T bins)."""

    of: Tensor
    size: Tensor
    index: Tensor

    def __init__(self, T: int, number: Number) -> None:
        super().__init__()
        if number is not None and number < 1:
            raise ConfigError(f"timesteps.bins: {number} is less than 1")
        self.number = min(number or T, T)
        of = torch.arange(T) * self.number // T  # [T]: the bin of t, at index t - 1
        self.register_buffer("of", of, persistent=False)
        self.register_buffer("index", torch.arange(self.number), persistent=False)
        self.register_buffer("size", torch.bincount(of).float(), persistent=False)

    def hits(self, t: Tensor) -> Tensor:
        """Return [N, B]: 1 where sample b is in bin n, else 0.

        Sums over it are the same on every run. Scattered additions on a GPU are not.
        """
        return (self.of[t - 1] == self.index[:, None]).float()

    def middles(self) -> Tensor:
        """Return the middle timestep of every bin, [N]."""
        ends = self.size.cumsum(0).long()
        return ends - (self.size.long() - 1) // 2

    def law(self, mass: Tensor) -> Tensor:
        """Return p(t) [T], where bin n has probability mass[n], shared equally by its timesteps."""
        return (mass / self.size)[self.of]


class Averages(nn.Module):
    """A moving average per bin that forgets `1 - decay` with every hit.

    While a bin has few hits its average is their plain mean.
    """

    value: Tensor
    seen: Tensor

    def __init__(self, bins: Bins, decay: Decay) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(f"timesteps.decay: {decay} must lie in 0..1, below 1")
        self.bins, self.decay = bins, decay
        self.register_buffer("value", torch.zeros(bins.number))
        self.register_buffer("seen", torch.zeros(bins.number))

    def add(self, t: Tensor, x: Tensor) -> None:
        """Add the values x [B], measured at the timesteps t [B]."""
        hits = self.bins.hits(t)
        count = hits.sum(1)
        mean = (hits * x).sum(1) / count.clamp(min=1)
        self.seen += count
        forget = torch.maximum(1 - self.decay**count, count / self.seen.clamp(min=1))
        self.value += torch.where(count > 0, forget, 0) * (mean - self.value)

    def complete(self) -> Tensor:
        """Return True if every bin has been hit, [] bool."""
        return (self.seen > 0).all()

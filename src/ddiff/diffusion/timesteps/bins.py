"""Scores for groups of neighbouring timesteps, learned from what training sees."""

from typing import Annotated

import torch
from torch import Tensor, nn

from ddiff.system.bounds import At
from ddiff.system.errors import ConfigError

Number = Annotated[int, At(least=1, most=10_000)] | None
Decay = Annotated[float, At(least=0, below=1)]


class Bins(nn.Module):
    """T timesteps in `number` groups of nearly equal size; null: a group each."""

    of: Tensor
    size: Tensor
    index: Tensor

    def __init__(self, T: int, number: Number) -> None:
        super().__init__()
        if number is not None and number < 1:
            raise ConfigError(f"timesteps.bins: {number} is less than 1")
        self.number = min(number or T, T)
        of = torch.arange(T) * self.number // T  # [T], of t - 1
        self.register_buffer("of", of, persistent=False)
        self.register_buffer("index", torch.arange(self.number), persistent=False)
        self.register_buffer("size", torch.bincount(of).float(), persistent=False)

    def hits(self, t: Tensor) -> Tensor:
        """1 where sample b is in bin n, [N, B]. Sums over it are the same on every run, which
        scattered additions on a GPU are not."""
        return (self.of[t - 1] == self.index[:, None]).float()

    def middles(self) -> Tensor:
        """A timestep of every bin, [N]."""
        ends = self.size.cumsum(0).long()
        return ends - (self.size.long() - 1) // 2

    def law(self, mass: Tensor) -> Tensor:
        """p(t) [T], where bin n has probability mass[n] and its timesteps share it alike."""
        return (mass / self.size)[self.of]


class Averages(nn.Module):
    """A moving average per bin that forgets `1 - decay` with every hit; a plain mean until then."""

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
        """x [B] was seen at t [B]."""
        hits = self.bins.hits(t)
        count = hits.sum(1)
        mean = (hits * x).sum(1) / count.clamp(min=1)
        self.seen += count
        forget = torch.maximum(1 - self.decay**count, count / self.seen.clamp(min=1))
        self.value += torch.where(count > 0, forget, 0) * (mean - self.value)

    def complete(self) -> Tensor:
        """Whether every bin has been seen, [] bool."""
        return (self.seen > 0).all()

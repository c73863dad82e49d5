"""The interface of every way to choose training timesteps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddiff.diffusion.schedules import Schedule

Gradient = Literal["exact", "last_layer"]
GradientNorms = Callable[[Tensor, Gradient], Tensor]  # (t [K], of which layers) -> [K]


class TimestepSampler(nn.Module, ABC):
    """A law p(t) on t = 1..T and a loss weight for each t. State lives in buffers, so it is in
    every checkpoint and on the device. No method may synchronise with the host.

    `unbiased` says whether the weights restore the uniform objective E_t~U[loss(t)], or whether
    the sampler changes the objective.
    """

    unbiased: bool
    watches: bool = False  # wants `update` with the losses of all ranks

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.T = schedule.T

    @abstractmethod
    def law(self) -> Tensor:
        """p(t) for t = 1..T, [T], at this moment."""

    def weights(self, law: Tensor) -> Tensor:
        """Loss weight of t = 1..T, [T]: 1 / (T p) where unbiased, else 1."""
        return 1 / (self.T * law) if self.unbiased else torch.ones_like(law)

    def sample(
        self, batch_size: int, generator: torch.Generator, rank: int = 0, world_size: int = 1
    ) -> tuple[Tensor, Tensor]:
        """t [B] int64 and a loss weight [B] float32, on the generator's device."""
        return self.draw(torch.rand(batch_size, generator=generator, device=generator.device))

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The t at quantile u [B] in [0, 1) of the law, and its weight."""
        law = self.law()
        i = quantile(law, u)
        return i + 1, self.weights(law)[i]

    def refresh(self, norms: GradientNorms, batch: int) -> None:
        """Before the draw of every batch: may ask for gradient norms on it."""

    def update(self, t: Tensor, losses: Tensor, weights: Tensor) -> None:
        """After the forward pass: every sample's plain loss [B] and its objective's weight [B]."""

    def scores(self) -> Tensor | None:
        """What the law is made from, for t = 1..T, [T]."""
        return None

    def exploration(self) -> float | Tensor:
        """Share of the draws that ignore the scores."""
        return 0.0

    def check(self, origin: Mapping[str, Any]) -> None:
        """Raises where this sampler was made for another training than that of `origin`."""


def effective_sample_size(sampler: TimestepSampler) -> Tensor:
    """(E w)^2 / E w^2 under the law: the share of a batch that weighting leaves."""
    law = sampler.law()
    weights = torch.where(law > 0, sampler.weights(law), 0)
    return (law * weights).sum() ** 2 / (law * weights**2).sum()


def quantile(law: Tensor, u: Tensor) -> Tensor:
    """Where the cumulated law first exceeds u [B] in [0, 1]: never an index of probability 0."""
    cdf = law.cumsum(0)
    last = torch.searchsorted(cdf, cdf[-1:])  # u times the total may round up to the total
    return torch.minimum(torch.searchsorted(cdf, u * cdf[-1], right=True), last)


def stratified(
    batch_size: int, generator: torch.Generator, rank: int = 0, world_size: int = 1
) -> Tensor:
    """u = (i + U) / N [B] over the global batch of N; ranks interleave, so each sees all of it."""
    device = generator.device
    i = rank + world_size * torch.arange(batch_size, device=device)
    within = torch.rand(batch_size, generator=generator, device=device)
    return (i + within) / (batch_size * world_size)

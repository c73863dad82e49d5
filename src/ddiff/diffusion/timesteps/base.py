"""The interface of timestep samplers, which choose the timesteps to train on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddiff.diffusion.schedules import Schedule

Gradient = Literal["exact", "last_layer"]
GradientNorms = Callable[[Tensor, Gradient], Tensor]  # (t [K], which layers) -> norms [K]


class TimestepSampler(nn.Module, ABC):
    """Base class of timestep samplers: a law p(t) on t = 1..T, and a loss weight for each t.

    State lives in buffers, so that it is in every checkpoint and on the device. No method may
    synchronise with the host.

    `unbiased` is True if the weights restore the uniform objective E_t~U[loss(t)], and False if the
    sampler changes the objective.
    """

    unbiased: bool
    copies: int = 1  # of every sample of a batch, each at a timestep of its own
    watches: bool = False  # True: training calls `update` with the losses of all ranks

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.T = schedule.T

    @abstractmethod
    def law(self) -> Tensor:
        """Return the current p(t) for t = 1..T, [T]."""

    def weights(self, law: Tensor) -> Tensor:
        """Return the loss weight of t = 1..T, [T]: 1 / (T p) if unbiased, else 1."""
        return 1 / (self.T * law) if self.unbiased else torch.ones_like(law)

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw t [B] int64 and their loss weights [B] float32, on the generator's device."""
        return self.draw(torch.rand(batch_size, generator=generator, device=generator.device))

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the t [B] at the law's quantiles u [B] in [0, 1), and their loss weights [B]."""
        law = self.law()
        i = quantile(law, u)
        return i + 1, self.weights(law)[i]

    def refresh(self, norms: GradientNorms, batch: int) -> None:
        """Hook before timesteps are drawn for a batch, whose number is `batch`.

        `norms` measures gradient norms on that batch.
        """

    def update(self, t: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Hook after the forward pass: t, unweighted losses, the objective's weights, [B] each."""

    def scores(self) -> Tensor | None:
        """Return the scores that the law is made from, [T] for t = 1..T; None without scores."""
        return None

    def exploration(self) -> float | Tensor:
        """Return the share of the draws that ignore the scores."""
        return 0.0

    def check(self, origin: Mapping[str, Any]) -> None:
        """Raise ConfigError if this sampler was made for another training than that of `origin`."""


def effective_sample_size(sampler: TimestepSampler) -> Tensor:
    """Effective share of a batch after weighting: (E w)^2 / E w^2 under the law."""
    law = sampler.law()
    weights = torch.where(law > 0, sampler.weights(law), 0)
    return (law * weights).sum() ** 2 / (law * weights**2).sum()


def quantile(law: Tensor, u: Tensor) -> Tensor:
    """Index [B] at which the cumulative law first exceeds u [B] in [0, 1].

    An index of probability 0 is never returned.
    """
    cdf = law.cumsum(0)
    last = torch.searchsorted(cdf, cdf[-1:])  # u times the total may round up to the total
    return torch.minimum(torch.searchsorted(cdf, u * cdf[-1], right=True), last)


def stratified(batch_size: int, generator: torch.Generator) -> Tensor:
    """Stratified numbers u = (i + U) / N for i = 0..N-1, [N]."""
    device = generator.device
    i = torch.arange(batch_size, device=device)
    within = torch.rand(batch_size, generator=generator, device=device)
    return (i + within) / batch_size

"""Unbiased importance sampling of timesteps, by the losses seen in training."""

from typing import Annotated

import torch
from torch import Tensor

from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.timesteps.base import TimestepSampler, stratified
from ddiff.diffusion.timesteps.bins import Averages, Bins, Decay, Number
from ddiff.system.bounds import At, Count
from ddiff.system.errors import ConfigError


class LossSecondMoment(TimestepSampler):
    """Importance sampling by the second moment of the loss (Nichol and Dhariwal 2021). Unbiased.

    p(t) ~ sqrt(E[L_t^2]) over the last `history` losses of t, mixed with `epsilon` of uniform. The
    law is uniform until every history is full. `bins=null` is the paper's: T histories, which a
    short training never fills.
    """

    unbiased = True
    watches = True
    losses: Tensor
    seen: Tensor

    def __init__(
        self,
        schedule: Schedule,
        bins: Number = 50,
        history: Count = 10,
        epsilon: Annotated[float, At(above=0, most=1)] = 0.001,
    ) -> None:
        super().__init__(schedule)
        if history < 1:
            raise ConfigError(f"timesteps.history: {history} is less than 1")
        self.bins, self.history, self.epsilon = Bins(self.T, bins), history, mixed(epsilon)
        # the last column receives hits that a batch has beyond `history`
        self.register_buffer("losses", torch.zeros(self.bins.number, history + 1))
        self.register_buffer("seen", torch.zeros(self.bins.number, dtype=torch.int64))

    def update(self, t: Tensor, losses: Tensor, weights: Tensor) -> None:
        hits = self.bins.hits(t).long()  # [N, B]
        bin_ = self.bins.of[t - 1]
        before = hits.cumsum(1).gather(0, bin_[None])[0] - 1  # earlier hits of the bin in the batch
        total = hits.sum(1)
        slot = (self.seen[bin_] + before) % self.history
        late = before >= total[bin_] - self.history
        self.losses[bin_, torch.where(late, slot, self.history)] = weights * losses
        self.losses[:, self.history] = 0
        self.seen += total

    def complete(self) -> Tensor:
        """Return True if every history is full, [] bool."""
        return (self.seen >= self.history).all()

    def law(self) -> Tensor:
        return mixture(self.bins, self._moments(), self.epsilon, self.complete())

    def _moments(self) -> Tensor:
        return self.losses[:, :-1].square().mean(1).sqrt()

    def scores(self) -> Tensor:
        return self._moments()[self.bins.of]

    def exploration(self) -> Tensor:
        return torch.where(self.complete(), self.epsilon, 1.0)


class StratifiedImportance(TimestepSampler):
    """Stratified importance sampling by the RMS norm of the gradient at the net's output.

    Unbiased. p(t) ~ w sqrt(E[L_t]), mixed with `epsilon` of uniform. u = (i + U) / N, so that every
    batch of N has one draw in each of N strata of equal probability. The law is uniform, in strata
    too, until every bin has been seen.

    With p proportional to the RMS norm of the gradient, importance sampling has the least variance
    that any law of t can have (Zhao and Zhang 2015). The strata remove the part of that variance
    which lies between timesteps. epsilon bounds the weights by 1 / epsilon.
    """

    unbiased = True
    watches = True

    def __init__(
        self,
        schedule: Schedule,
        bins: Number = 50,
        epsilon: Annotated[float, At(above=0, most=1)] = 0.2,
        decay: Decay = 0.9,
    ) -> None:
        super().__init__(schedule)
        self.bins, self.epsilon = Bins(self.T, bins), mixed(epsilon)
        self.average = Averages(self.bins, decay)  # averages of w^2 L

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.draw(stratified(batch_size, generator))

    def update(self, t: Tensor, losses: Tensor, weights: Tensor) -> None:
        self.average.add(t, weights.square() * losses)

    def law(self) -> Tensor:
        score = self.average.value.sqrt()
        return mixture(self.bins, score, self.epsilon, self.average.complete())

    def scores(self) -> Tensor:
        return self.average.value.sqrt()[self.bins.of]

    def exploration(self) -> Tensor:
        return torch.where(self.average.complete(), self.epsilon, 1.0)


def mixture(bins: Bins, score: Tensor, epsilon: float, complete: Tensor) -> Tensor:
    """Return p(t) [T] ~ score [N] of t's bin, mixed with `epsilon` of uniform.

    The law is uniform until `complete` [] is True.
    """
    everything = bins.size / len(bins.of)
    share = score * bins.size
    mass = (1 - epsilon) * share / share.sum().clamp(min=1e-30) + epsilon * everything
    return bins.law(torch.where(complete & (share.sum() > 0), mass, everything))


def mixed(epsilon: float) -> float:
    """Return epsilon; ConfigError unless it is above 0 and at most 1."""
    if not 0 < epsilon <= 1:
        raise ConfigError(f"timesteps.epsilon: {epsilon} must be above 0 and at most 1")
    return epsilon

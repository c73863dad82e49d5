"""Uniform timesteps whose losses are brought to one size (EDM2, Karras et al. 2024)."""

import torch
from torch import Tensor

from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.timesteps.base import TimestepSampler
from ddiff.diffusion.timesteps.bins import Averages, Bins, Decay, Number


class Uncertainty(TimestepSampler):
    """Uniform timesteps, the loss of each divided by its mean: EDM2's uncertainty weighting.

    EDM2 minimises w L / exp(u(t)) + u(t) over the net and a small function u, whose optimum is
    u(t) = log E[w L_t]. Here u is that optimum, from a moving average of the losses of each bin,
    so there is nothing to learn. Weights are scaled by the mean of E[w L_t] over t, which leaves
    the size of the total loss, and with it gradient clipping, as it was.

    Objective-changing. The weights are 1 until every bin has been seen.
    """

    unbiased = False
    watches = True

    def __init__(self, schedule: Schedule, bins: Number = 50, decay: Decay = 0.99) -> None:
        super().__init__(schedule)
        self.bins = Bins(self.T, bins)
        self.average = Averages(self.bins, decay)  # of w L

    def law(self) -> Tensor:
        return torch.full((self.T,), 1 / self.T, device=self.average.value.device)

    def weights(self, law: Tensor) -> Tensor:
        value = self.average.value
        mean = (value * self.bins.size).sum() / self.T
        known = self.average.complete() & (value > 0)
        return torch.where(known, mean / value.clamp(min=1e-30), 1.0)[self.bins.of]

    def update(self, t: Tensor, losses: Tensor, weights: Tensor) -> None:
        self.average.add(t, weights * losses)

    def scores(self) -> Tensor:
        return self.average.value[self.bins.of]

    def exploration(self) -> float:
        return 1.0

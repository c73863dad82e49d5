"""Timestep samplers whose law does not change during training."""

import math

import torch
from torch import Tensor

from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.timesteps.base import TimestepSampler
from ddiff.system.bounds import Positive
from ddiff.system.errors import ConfigError

MOST = 100  # timesteps of `All`


class Uniform(TimestepSampler):
    """Uniform timesteps t ~ U{1..T}. Unbiased: this is the objective itself."""

    unbiased = True

    def law(self) -> Tensor:
        return torch.full((self.T,), 1 / self.T)

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        t = torch.randint(1, self.T + 1, (batch_size,), generator=generator, device=device)
        return t, torch.ones(batch_size, device=device)


class All(TimestepSampler):
    """Every timestep for every sample of a batch: the objective without sampling. Unbiased.

    A batch of B costs as much as one of B T; it is a baseline for small T.
    """

    unbiased = True

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        if self.T > MOST:
            raise ConfigError(
                f"timesteps=all takes each of the schedule's {self.T} timesteps for every sample; "
                f"give it {MOST} or fewer: schedule.T={MOST}, of a shifted one schedule.schedule.T"
            )
        self.copies = self.T

    def law(self) -> Tensor:
        return torch.full((self.T,), 1 / self.T)

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        t = torch.arange(batch_size, device=device) % self.T + 1
        return t, torch.ones(batch_size, device=device)


class Stratified(TimestepSampler):
    """Uniform timesteps in strata: u = (i + U) / N in a batch of N. Unbiased.

    Each of N equal strata gets one draw.
    """

    unbiased = True

    def law(self) -> Tensor:
        return torch.full((self.T,), 1 / self.T)

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        i = torch.arange(batch_size, device=device)
        within = torch.randint(self.T, (batch_size,), generator=generator, device=device)
        # floor(u T) in integers, within = floor(U T): i + U in float32 may round into stratum i + 1
        t = (i * self.T + within) // batch_size + 1
        return t, torch.ones(batch_size, device=device)


class LogitNormal(TimestepSampler):
    """Logit-normal timesteps: sigmoid(N(mean, std)) in units of T (Esser et al. 2024).

    Middle noise levels are drawn most often. Objective-changing: the loss keeps weight 1.
    """

    unbiased = False

    def __init__(self, schedule: Schedule, mean: float = 0.0, std: Positive = 1.0) -> None:
        super().__init__(schedule)
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ConfigError(f"timesteps: mean {mean} must be finite and std {std} above 0")
        self.mean, self.std = mean, std

    def law(self) -> Tensor:
        """Return p(t) [T], from P(t <= k) = Phi((logit(k / T) - mean) / std)."""
        edges = torch.arange(self.T + 1, dtype=torch.float64) / self.T
        return torch.special.ndtr((torch.logit(edges) - self.mean) / self.std).diff().float()

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        normal = torch.randn(batch_size, generator=generator, device=device)
        t = (torch.sigmoid(self.mean + self.std * normal) * self.T).long() + 1
        return t.clamp(max=self.T), torch.ones(batch_size, device=device)


class LogNormal(TimestepSampler):
    """Log-normal noise over signal: ln sigma ~ N(mean, std^2) (Karras et al. 2022).

    Each draw takes the timestep whose ln sigma is nearest. With schedule=karras and objective=v
    this is EDM's training, weighting and all. Objective-changing: the loss keeps weight 1.
    """

    unbiased = False

    def __init__(self, schedule: Schedule, mean: float = -1.2, std: Positive = 1.2) -> None:
        super().__init__(schedule)
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ConfigError(f"timesteps: mean {mean} must be finite and std {std} above 0")
        level = schedule.sigma[1:].log()  # of the last one +inf where abar_T = 0
        edges = ((level[1:] + level[:-1]) / 2 - mean) / std  # T - 1, between two timesteps
        self.register_buffer("edges", edges.float(), persistent=False)
        self.edges: Tensor

    def law(self) -> Tensor:
        """Return p(t) [T]."""
        inside = torch.special.ndtr(self.edges)
        ends = inside.new_zeros(1), inside.new_ones(1)
        return torch.cat([ends[0], inside, ends[1]]).diff()

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        normal = torch.randn(batch_size, generator=generator, device=device)
        t = torch.searchsorted(self.edges, normal) + 1
        return t, torch.ones(batch_size, device=device)

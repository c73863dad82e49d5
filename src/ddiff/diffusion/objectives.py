"""Objectives: the quantity that the net predicts, and the weight of each timestep's loss.

Every objective predicts pred = e eps + s x_0, where e and s depend on a = sqrt(abar_t) and
b = sqrt(1 - abar_t). With x_t = a x_0 + b eps, all conversions follow from (e, s):

    x_0  = p x_t + q pred,    p = e / (e a - s b),   q = -b / (e a - s b)
    |pred error|^2 = ((e a - s b) / b)^2 |x_0 error|^2
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ddiff.diffusion.schedules import Schedule
from ddiff.system.bounds import NotNegative, Positive
from ddiff.system.errors import ConfigError

Weighting = Literal["none", "min_snr", "p2"]


@dataclass(frozen=True)
class Objective(ABC):
    """Base class of objectives: what the net predicts, and how its loss is weighted.

    `weighting` none keeps the unweighted mean square error of the prediction. min_snr (Hang et al.
    2023) is defined on x_0: min(SNR, gamma). p2 (Choi et al. 2022) is defined on eps:
    `1 / (p2_k + SNR)^p2_gamma`. Both are converted to this objective's prediction.
    """

    weighting: Weighting = "none"
    min_snr_gamma: Positive = 5.0
    p2_k: NotNegative = 1.0
    p2_gamma: NotNegative = 1.0

    def __post_init__(self) -> None:
        if self.weighting not in ("none", "min_snr", "p2"):
            raise ConfigError(
                f"objective.weighting: {self.weighting!r} is not one of none, min_snr, p2"
            )
        if not (self.min_snr_gamma > 0 and self.p2_k >= 0 and self.p2_gamma >= 0):
            raise ConfigError(
                f"objective: min_snr_gamma {self.min_snr_gamma} must be above 0, and neither "
                f"p2_k {self.p2_k} nor p2_gamma {self.p2_gamma} below"
            )

    @abstractmethod
    def mix(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return (e, s) of pred = e eps + s x_0, from a = sqrt(abar_t) and b = sqrt(1 - abar_t)."""

    def target(self, schedule: Schedule, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the net's target e eps + s x_0, for x_0 and eps [B, C, *S] at t [B]."""
        e, s = self.mix(*schedule.signal_and_noise(t, x_0))
        return e * eps + s * x_0

    def to_x_0(self, schedule: Schedule, x_t: Tensor, pred: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 [B, C, *S] of a prediction for x_t [B, C, *S] at t [B]: p x_t + q pred."""
        p, q = self.coefficients(*schedule.signal_and_noise(t, x_t))
        return p * x_t + q * pred

    def to_eps(self, schedule: Schedule, x_t: Tensor, pred: Tensor, t: Tensor) -> Tensor:
        """Return the eps [B, C, *S] of a prediction: (s x_t - a pred) / (s b - a e)."""
        a, b = schedule.signal_and_noise(t, x_t)
        e, s = self.mix(a, b)
        return (s * x_t - a * pred) / (s * b - a * e)

    def coefficients(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return (p, q) of x_0 = p x_t + q pred."""
        e, s = self.mix(a, b)
        det = e * a - s * b
        return e / det, -b / det

    def check(self, schedule: Schedule) -> None:
        """Raise ConfigError if the schedule has a t at which x_0 cannot be recovered from pred."""
        a, b = schedule.abar[1:].sqrt(), (1 - schedule.abar[1:]).sqrt()
        e, s = self.mix(a, b)
        if bool((e * a - s * b == 0).any()):
            raise ConfigError(
                f"objective {type(self).__name__.lower()} cannot recover x_0 where abar_T = 0 "
                "(zero terminal SNR); use objective=v, x0 or flow"
            )

    def weights_at(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return `weights` at the timesteps t [B]: [B] float32, on the device of t."""
        return _weights(self, schedule, t.device)[t]

    def weights(self, schedule: Schedule) -> Tensor:
        """Return the weight of this objective's loss for every t, [T + 1] (0 at t = 0)."""
        weights = torch.zeros_like(schedule.abar)
        abar = schedule.abar[1:]
        if self.weighting == "none":
            weights[1:] = 1
            return weights
        snr = abar / (1 - abar)
        if self.weighting == "min_snr":
            on_x_0 = snr.clamp(max=self.min_snr_gamma)
        else:
            on_x_0 = snr / (self.p2_k + snr) ** self.p2_gamma
        a, b = abar.sqrt(), (1 - abar).sqrt()
        e, s = self.mix(a, b)
        weights[1:] = on_x_0 / ((e * a - s * b) / b) ** 2
        return weights


@lru_cache(maxsize=64)
def _weights(objective: Objective, schedule: Schedule, device: torch.device) -> Tensor:
    return objective.weights(schedule).float().to(device)


class Eps(Objective):
    """Predicts the noise eps (Ho et al. 2020)."""

    def mix(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(a), torch.zeros_like(b)


class X0(Objective):
    """Predicts the data x_0. Suits nets that are too narrow to carry noise."""

    def mix(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(a), torch.ones_like(b)


@dataclass(frozen=True)
class V(Objective):
    """Predicts v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022).

    For data of another standard deviation than 1, `data_std`, it is the v of the data divided by
    it, so that the target has the variance 1 at every noise level (Karras et al. 2022):
    v = (data_std a eps - b x_0 / data_std) / sqrt(data_std^2 a^2 + b^2).
    """

    data_std: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data_std > 0:
            raise ConfigError(f"objective.data_std must be above 0, not {self.data_std}")

    def mix(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if self.data_std == 1:
            return a, -b
        norm = (self.data_std**2 * a**2 + b**2).sqrt()  # of x_t
        return self.data_std * a / norm, -b / (self.data_std * norm)


class Flow(Objective):
    """Predicts eps - x_0, the velocity of the straight path (Liu et al. 2023).

    x_0 can be recovered at every noise level, pure noise among them.
    """

    def mix(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(a), -torch.ones_like(b)

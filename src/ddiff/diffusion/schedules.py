"""Noise schedules: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, for t = 1..T; t = 0 is data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from ddiff.system.bounds import At, Filled, NotNegative, Positive
from ddiff.system.errors import ConfigError

Times = Annotated[int, At(least=1, most=100_000)]
Beta = Annotated[float, At(above=0, below=1)]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule: the float64 table abar[0..T].

    It falls strictly from abar[0] = 1 to abar[T] >= 0. The table is checked when the schedule is
    built; ConfigError if it is wrong. A schedule is neither a module nor a buffer, so that no
    averaging of weights and no half precision changes it.
    """

    abar: Tensor  # [T + 1] float64, on the CPU
    _on_device: dict[tuple[torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        abar = self.abar
        if abar.dtype != torch.float64 or abar.dim() != 1 or len(abar) < 2:
            raise ConfigError("a schedule is a float64 table abar[0..T] with T >= 1")
        if not bool(torch.isfinite(abar).all()):
            raise ConfigError("a schedule must be finite")
        if abar[0] != 1 or abar[-1] < 0 or not bool((abar[1:] < abar[:-1]).all()):
            raise ConfigError(
                "a schedule falls strictly from abar[0] = 1 to abar[T] >= 0; "
                "with many steps or small betas it can stall in float64"
            )

    @property
    def T(self) -> int:
        """The number of timesteps: t runs from 1 to T."""
        return len(self.abar) - 1

    @property
    def sigma(self) -> Tensor:
        """The noise over the signal, sqrt((1 - abar) / abar), [T + 1]; +inf where abar_T = 0."""
        return ((1 - self.abar) / self.abar).sqrt()

    @property
    def log_snr(self) -> Tensor:
        """The log signal-to-noise ratio, log(abar / (1 - abar)), [T + 1].

        It is +inf at t = 0, and -inf at t = T if abar_T = 0.
        """
        return torch.log(self.abar) - torch.log1p(-self.abar)

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t) for t [B], [B, 1, ...] in the type of `like`.

        They broadcast over `like` [B, C, *S].
        """
        where = (t.device, like.dtype)
        if where not in self._on_device:
            table = torch.stack([self.abar.sqrt(), (1 - self.abar).sqrt()])
            self._on_device[where] = table.to(like.dtype).to(t.device)
        a, b = self._on_device[where][:, t].view(2, -1, *[1] * (like.dim() - 1))
        return a, b

    def add_noise(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, all [B, C, *S], for t [B]."""
        a, b = self.signal_and_noise(t, x_0)
        return a * x_0 + b * eps


def linear(
    T: Times = 1000, beta_1: Beta = 1e-4, beta_T: Beta = 0.02, rescale: bool = True
) -> Schedule:
    """Linear schedule (Ho et al. 2020): beta_t rises linearly from beta_1 to beta_T.

    `rescale` multiplies all betas by 1000 / T, so that every T ends at the same noise level.
    """
    scale = 1000 / _steps(T) if rescale else 1.0
    return _from_betas(torch.linspace(beta_1 * scale, beta_T * scale, T, dtype=torch.float64))


def scaled_linear(
    T: Times = 1000, beta_1: Beta = 0.00085, beta_T: Beta = 0.012, rescale: bool = True
) -> Schedule:
    """Schedule of latent diffusion (Rombach et al. 2022): sqrt(beta_t) rises linearly.

    `rescale` multiplies all betas by 1000 / T, so that every T ends at the same noise level.
    """
    roots = torch.linspace(beta_1**0.5, beta_T**0.5, _steps(T), dtype=torch.float64)
    return _from_betas(roots**2 * (1000 / T if rescale else 1.0))


def cosine(T: Times = 1000, offset: NotNegative = 0.008, max_beta: Beta = 0.999) -> Schedule:
    """Cosine schedule (Nichol and Dhariwal 2021, Eq. 17), with beta_t clipped at `max_beta`."""
    u = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def sigmoid(
    T: Times = 1000, start: float = -3.0, end: float = 3.0, tau: Positive = 1.0
) -> Schedule:
    """Sigmoid schedule (Jabri et al. 2023, Algorithm 1), with betas clipped at 0.999.

    The clipping keeps abar_T above 0.
    """
    if not start < end:
        raise ConfigError(f"sigmoid schedule: start {start} must be below end {end}")
    u = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    s = torch.sigmoid((u * (end - start) + start) / tau)
    f = (s[-1] - s) / (s[-1] - s[0])
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))


def constant(T: Times = 100, beta: Beta = 0.1) -> Schedule:
    """Constant schedule: the same beta in every step.

    beta = 0.1 with T = 100 is the toy schedule of early voxel models.
    """
    return _from_betas(torch.full((_steps(T),), beta, dtype=torch.float64))


def flow(T: Times = 1000) -> Schedule:
    """Straight path of rectified flow (Liu et al. 2023): x = (1 - u) x_0 + u eps, u = t / T.

    Here x is divided by sqrt((1 - u)^2 + u^2), as every schedule's x has unit variance where x_0
    has. abar_T = 0: not for the objective eps.
    """
    u = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    return Schedule((1 - u) ** 2 / ((1 - u) ** 2 + u**2))


def karras(
    T: Times = 1000, sigma_min: Positive = 0.002, sigma_max: Positive = 80.0, rho: Positive = 7.0
) -> Schedule:
    """Noise levels of EDM (Karras et al. 2022, Eq. 5): x = x_0 + sigma eps.

    sigma^(1 / rho) rises linearly from sigma_min at t = 1 to sigma_max at t = T. Here x is divided
    by sqrt(1 + sigma^2). With objective=v this is EDM's preconditioning, for data of unit variance.
    """
    if _steps(T) < 2 or not sigma_min < sigma_max:
        raise ConfigError(
            f"a karras schedule needs T >= 2 steps, not {T}, and sigma_min {sigma_min:g} below "
            f"sigma_max {sigma_max:g}"
        )
    ends = torch.tensor([sigma_min, sigma_max], dtype=torch.float64) ** (1 / rho)
    roots = torch.lerp(ends[0], ends[1], torch.arange(T, dtype=torch.float64) / (T - 1))
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), 1 / (1 + roots ** (2 * rho))]))


def from_betas(betas: Annotated[Sequence[float], Filled()]) -> Schedule:
    """Schedule from a list of beta_t, for t = 1..T; a last beta of 1 ends in pure noise."""
    table = torch.tensor(list(betas), dtype=torch.float64)
    _check_betas(table[:-1])
    _check_betas(table[-1:], most=1)
    return _of(table)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Return the schedule shifted and scaled to zero terminal SNR (Lin et al. 2024, Algorithm 1).

    sqrt(abar) is changed so that abar_T = 0 exactly and abar_1 stays. Only for objectives that can
    predict from pure noise: x0, v and flow.
    """
    if schedule.T < 2:
        raise ConfigError("a schedule with zero terminal SNR needs T >= 2 steps")
    root = schedule.abar.sqrt()
    abar = (root[1] * (root - root[-1]) / (root[1] - root[-1])) ** 2
    abar[0] = 1
    return Schedule(abar)


def shifted(schedule: Schedule, snr_factor: Positive) -> Schedule:
    """Return the schedule with every SNR multiplied by `snr_factor`.

    This is Eq. 4 of simple diffusion (Hoogeboom et al. 2023). In large images and volumes many
    neighbouring values agree, and their mean shows through the noise. The content of a sample is
    then decided at an SNR of about 1 / (number of values that agree). Schedules made for 32 x 32
    pixels reach such an SNR only near t = T.
    """
    if not 0 < snr_factor < math.inf:
        raise ConfigError(f"schedule.snr_factor must be above 0, not {snr_factor}")
    abar = schedule.abar
    return Schedule(snr_factor * abar / (snr_factor * abar + (1 - abar)))


def _steps(T: int) -> int:
    if T < 1:
        raise ConfigError(f"a schedule needs T >= 1 steps, not {T}")
    return T


def _from_betas(betas: Tensor) -> Schedule:
    _check_betas(betas)
    return _of(betas)


def _check_betas(betas: Tensor, most: float | None = None) -> None:
    fits = (betas > 0) & ((betas < 1) if most is None else (betas <= most))
    if not bool(fits.all()):
        low, high = betas.min().item(), betas.max().item()
        raise ConfigError(f"every beta must lie in (0, 1); these run from {low:.4g} to {high:.4g}")


def _of(betas: Tensor) -> Schedule:
    abar = torch.cumprod(1 - betas, 0)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), abar]))

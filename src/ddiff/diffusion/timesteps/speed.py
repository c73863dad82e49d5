"""SpeeD (Wang et al. 2024, arXiv 2405.17403): draw late timesteps less often.

At late timesteps one more step of noise changes x_t very little. The paper's text and its released
code differ: both are here.
"""

from typing import Annotated

import torch
from torch import Tensor

from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.timesteps.base import TimestepSampler, quantile
from ddiff.system.bounds import At, Count, Positive
from ddiff.system.errors import ConfigError

Weight = Annotated[float, At(least=0.5, most=1)]
FLAT = 0.1  # slope of the noise level per unit of t / T; the paper's convergence area is flatter


class Speed(TimestepSampler):
    """SpeeD as in the paper's text. Objective-changing.

    p(t) = k / (T + tau (k - 1)) for t <= tau, else 1 / (T + tau (k - 1)). The loss weight follows
    the slope of 1 - abar, scaled into [1 - lambda, lambda].

    `tau` null is the last t at which sqrt(1 - abar) still rises by 0.1 per unit of t / T, the
    threshold of the released code: 641 of 1000 for the linear schedule.
    """

    unbiased = False
    p: Tensor
    w: Tensor

    def __init__(
        self, schedule: Schedule, k: Positive = 5.0, tau: Count | None = None, lambda_: Weight = 0.6
    ) -> None:
        super().__init__(schedule)
        T = self.T
        if tau is None:
            tau = int((slope((1 - schedule.abar[1:]).sqrt()) >= FLAT).nonzero().max()) + 1
        if not (k > 0 and 1 <= tau <= T and 0.5 <= lambda_ <= 1):
            raise ConfigError(
                f"timesteps: k {k} must be above 0, tau {tau} in 1..{T}, "
                f"lambda_ {lambda_} in 0.5..1"
            )
        self.tau = tau
        often = torch.arange(1, T + 1) <= tau
        p = torch.where(often, k, 1.0).double() / (T + tau * (k - 1))
        rise = slope(1 - schedule.abar[1:])
        span = (rise.max() - rise.min()).clamp(min=1e-300)
        w = 1 - lambda_ + (2 * lambda_ - 1) * (rise - rise.min()) / span
        self.register_buffer("p", p.float(), persistent=False)
        self.register_buffer("w", w.float(), persistent=False)

    def law(self) -> Tensor:
        return self.p

    def weights(self, law: Tensor) -> Tensor:
        return self.w


class SpeedReleased(TimestepSampler):
    """SpeeD as in the authors' released code. Objective-changing.

    p(t) is 2.5 where sqrt(1 - abar) rises by more than 0.1 per unit of t / T and 0.5 elsewhere,
    normalised. The second half of a batch mirrors the first at m, the end of the steep part:
    `i -> m - i` below m, `i -> i - m` from m on (i = t - 1). The loss keeps weight 1. The code adds
    p2 weighting, which here is `objective.weighting=p2`.
    """

    unbiased = False
    p: Tensor
    q: Tensor
    mirror: Tensor

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        T = self.T
        rise = slope((1 - schedule.abar[1:]).sqrt())
        p = torch.tanh(1e6 * (rise - FLAT) / T) + 1.5
        p = p / p.sum()
        flat = (rise < FLAT).nonzero()
        m = (int(flat.min()) if len(flat) else 0) + 1  # their argmax is 0 if nothing is flat
        i = torch.arange(T)
        mirror = torch.where(i < m, m - i, i - m).clamp(max=T - 1)
        q = torch.zeros_like(p).index_add(0, mirror, p)
        self.register_buffer("p", p.float(), persistent=False)
        self.register_buffer("q", q.float(), persistent=False)
        self.register_buffer("mirror", mirror, persistent=False)

    def law(self) -> Tensor:
        """Return the law of a large batch, [T]: half from p, half from its mirror image."""
        return (self.p + self.q) / 2

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first = batch_size // 2 + 1
        i = quantile(self.p, torch.rand(first, generator=generator, device=generator.device))
        t = torch.cat([i, self.mirror[i]])[:batch_size] + 1
        return t, torch.ones(batch_size, device=generator.device)


def slope(values: Tensor) -> Tensor:
    """Return d values / d (t / T) by central differences, [T]."""
    if len(values) < 2:
        return torch.full_like(values, FLAT)
    return torch.gradient(values)[0] * len(values)

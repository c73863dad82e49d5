"""Knowledge of a sample before it is drawn: a part of it, or a coarser version of it.

Each estimate of x_0 is replaced by the nearest one that agrees with what is known, y = A x_0
(DDNM, Wang et al. 2023, Eq. 13):

    x_0' = x_0 + A^+ (y - A x_0)

A takes a part or the means of blocks, and A^+ fills up with zeros or repeats. No other part of a
step changes: at every t the known part of x_t is alpha y + sigma noise, and in the sample it is y.

A step looks at what is known only through x_t, so the new part can disagree with it. With jumps
(RePaint, Lugmayr et al. 2022, Algorithm 1) noise is added again after each step, and the step is
made again: the two parts then agree better, and each jump costs an evaluation.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from ddiff.diffusion.solvers import Plan
from ddiff.system.errors import ConfigError


class Known(Protocol):
    """Interface of what is known of a batch of samples."""

    @property
    def guess(self) -> Tensor:
        """A^+ y, the smallest x_0 that agrees, [B, C, *S]."""
        ...

    def __call__(self, x_0: Tensor) -> Tensor:
        """Return the nearest x_0 that agrees with what is known, [B, C, *S]."""
        ...


@dataclass(frozen=True, eq=False)
class Part:
    """Known values where `mask` is True."""

    values: Tensor  # [B, C, *S]; not read where the mask is False
    mask: Tensor  # bool, [*S] or a shape that broadcasts to [B, C, *S]

    @property
    def guess(self) -> Tensor:
        return torch.where(self.mask, self.values, 0)

    def __call__(self, x_0: Tensor) -> Tensor:
        return torch.where(self.mask, self.values, x_0)


@dataclass(frozen=True, eq=False)
class Coarse:
    """Known means of the blocks of `factor` pixels or voxels along every side."""

    values: Tensor  # [B, C, *S / factor]
    factor: int

    @property
    def guess(self) -> Tensor:
        return self._repeated(self.values)

    def __call__(self, x_0: Tensor) -> Tensor:
        means = (avg_pool2d if x_0.ndim == 4 else avg_pool3d)(x_0, self.factor)
        return x_0 + self._repeated(self.values - means)

    def _repeated(self, values: Tensor) -> Tensor:
        for axis in range(2, values.ndim):
            values = values.repeat_interleave(self.factor, axis)
        return values


def with_jumps(plan: Plan, jumps: int) -> Plan:
    """Return the plan with every step but the last taken back `jumps` times and made again.

    A row that goes from t to s and back to t is one row that stays at t:

        x' = r (a x + b x_0 + d noise) + sqrt(1 - r^2) noise',    r^2 = abar_t / abar_s

    Raises ConfigError for a solver that uses the estimate before the last, which a jump makes
    wrong, and for one that tells the net how far a step goes.
    """
    if not jumps:
        return plan
    if plan.shortcuts or plan.memory:
        raise ConfigError("jumps: take a solver of single steps, solver=ddpm or solver=ddim")
    abar = plan.schedule.abar[plan.times]
    kept = (abar[:-1] / abar[1:]).sqrt()  # r
    made_again = (kept * plan.noise) ** 2 + 1 - kept**2
    back = {"x": kept * plan.x, "x_0": kept * plan.x_0, "noise": made_again.sqrt()}
    number = torch.full((len(plan),), jumps + 1)  # of the rows that a row becomes
    number[-1] = 1
    row = torch.arange(len(plan)).repeat_interleave(number)
    forward = row != torch.cat([row[1:], row.new_tensor([-1])])  # the last one of them
    columns = {
        name: torch.where(forward, getattr(plan, name)[row], column[row])
        for name, column in back.items()
    }
    times = torch.cat([plan.times[:-1][row], plan.times[-1:]])
    weight = None if plan.weight is None else plan.weight[row]
    none = 0 * columns["x"]
    return replace(plan, times=times, x_0_previous=none, x_0_before=None, weight=weight, **columns)


def begun_at(plan: Plan, t: int) -> Plan:
    """Return the rows of the plan from time t on, or from its next time below.

    The first rows have no estimates of x_0 before their own, and take the first one again: in every
    solver that is a step of lower order.
    """
    falls = plan.times[1:] < plan.times[:-1]  # a row that stays corrects the one before it
    starts = (falls & (plan.times[:-1] <= t)).nonzero().flatten().tolist()
    if not starts:
        lowest = int(plan.times[-2])
        raise ConfigError(
            f"strength: so little noise lies below the last step of this solver (at t = {lowest} "
            f"of {plan.schedule.T}); take more steps, or a strength of at least "
            f"{lowest / plan.schedule.T:.2g}"
        )
    first = starts[0]
    x, x_0, previous, noise, before = (column[first:].clone() for column in plan.coefficients)
    previous[:2] += before[:2]  # the same estimate stands for both
    before[:2] = 0
    x_0[0] += previous[0]
    previous[0] = 0
    weight = None if plan.weight is None else plan.weight[first:]
    return replace(
        plan,
        times=plan.times[first:],
        x=x,
        x_0=x_0,
        x_0_previous=previous,
        noise=noise,
        weight=weight,
        x_0_before=None if plan.x_0_before is None else before,
    )

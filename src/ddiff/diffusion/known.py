"""Knowledge of a sample before it is drawn: a part of it, or a coarser version of it.

Each estimate of x_0 is replaced by the nearest one that agrees with what is known, y = A x_0
(DDNM, Wang et al. 2023, Eq. 13):

    x_0' = x_0 + A^+ (y - A x_0)

A takes a part or the means of blocks, and A^+ fills up with zeros or repeats. No other part of a
step changes: at every t the known part of x_t is alpha y + sigma noise, and in the sample it is y.

A step looks at what is known only through x_t, so the new part can disagree with it. There are two
remedies. With jumps (RePaint, Lugmayr et al. 2022, Algorithm 1) noise is added again after each
step, and the step is made again: the two parts then agree better, and each jump costs an
evaluation. With `Posterior` the estimate itself is conditioned on y, by the net's derivative.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from ddiff.diffusion.guidance import Guidance, Net, Step
from ddiff.diffusion.objectives import Objective
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

    def measured(self, x_0: Tensor) -> Tensor:
        """Return A x_0, in the shape of y."""
        ...

    def spread(self, u: Tensor) -> Tensor:
        """Return A^T u, [B, C, *S], for u in the shape of y."""
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

    def measured(self, x_0: Tensor) -> Tensor:
        return torch.where(self.mask, x_0, 0)  # in the shape of x_0, 0 where nothing is known

    def spread(self, u: Tensor) -> Tensor:
        return torch.where(self.mask, u, 0)


@dataclass(frozen=True, eq=False)
class Coarse:
    """Known means of the blocks of `factor` pixels or voxels along every side."""

    values: Tensor  # [B, C, *S / factor]
    factor: int

    @property
    def guess(self) -> Tensor:
        return self._repeated(self.values)

    def __call__(self, x_0: Tensor) -> Tensor:
        return x_0 + self._repeated(self.values - self.measured(x_0))

    def measured(self, x_0: Tensor) -> Tensor:
        return (avg_pool2d if x_0.ndim == 4 else avg_pool3d)(x_0, self.factor)

    def spread(self, u: Tensor) -> Tensor:
        return self._repeated(u) / self.factor ** (u.ndim - 2)

    def _repeated(self, values: Tensor) -> Tensor:
        for axis in range(2, values.ndim):
            values = values.repeat_interleave(self.factor, axis)
        return values


@dataclass(frozen=True, eq=False)
class Posterior(Guidance):
    """Posterior guidance: the mean of x_0 given x_t and y = A x_0 + noise, not given x_t alone.

    With J = d x_0 / d x_t of the guided net, x_0 given x_t has the covariance V = (sigma^2 / alpha)
    J (Tweedie), and with a normal law of that covariance the mean is

        x_0' = x_0 + V A^T (A V A^T + noise^2 I)^-1 (y - A x_0)

    (Boys et al. 2023; Rozet et al. 2024). On normal data this is exact. The inverse is never made:
    each of the `iterations` of conjugate gradients costs one backward pass through the net.

    - `guidance`: the guidance that the net's predictions are combined by.
    - `noise`: the standard deviation of the noise in y, in units of x_0.
    - `clamp`: bound on the absolute value of the estimate that is corrected; None: no bound.
    """

    known: Known
    plan: Plan
    objective: Objective
    guidance: Guidance
    iterations: int
    noise: float = 0.0
    clamp: float | None = None

    @cached_property
    def _affine(self) -> list[list[float]]:
        """Rows of p and q, of x_0 = p x + q pred, and noise^2 / (sigma^2 / alpha)."""
        abar = self.plan.schedule.abar[self.plan.times[:-1]]
        ratio = self.noise**2 * abar.sqrt() / (1 - abar)
        return torch.cat([self.plan.table(self.objective)[:, :2], ratio[:, None]], 1).tolist()

    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None, step: Step) -> Tensor:
        p, q, noise = self._affine[step.number]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            estimate = p * x + q * self.guidance(net, x, t, y, step).to(x.dtype)
        x_0 = estimate.detach()
        if self.clamp is not None:
            x_0 = x_0.clamp(-self.clamp, self.clamp)
        # conjugate gradients for (A J A^T + noise I) u = rest, each sample for itself
        rest = self.known.measured(self.known.guess - x_0)
        towards, size = rest, _dot(rest, rest)
        least = 1e-12 * size
        for _ in range(self.iterations):
            change = self.known.spread(towards)
            (change,) = torch.autograd.grad(estimate, x, change, retain_graph=True)
            image = self.known.measured(change) + noise * towards
            curvature = _dot(towards, image)
            # a trained net's J is not quite a covariance: a direction it cannot explain ends this
            goes = (curvature > 0) & (size > least)
            length = torch.where(goes, size / curvature.where(goes, 1), 0)
            x_0 = x_0 + length * change
            rest = rest - length * image
            before, size = size, _dot(rest, rest).where(goes, 0)
            towards = rest + size / before.where(goes, 1) * towards
        return (x_0 - p * x.detach()) / q


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each pair of samples, [B, 1, ..]."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


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

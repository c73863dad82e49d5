"""Shortcuts: long steps, each learned from two of half its length (Frans et al. 2025).

A net that learns shortcuts is told where a step starts and how far it goes. Its prediction stands
for an x_0, as always, and the step from t to s is that of DDIM:

    x_s = r x_t + c x_0,    r = b_s / b_t,    c_ts = a_s - r a_t

with a = sqrt(abar), b = sqrt(1 - abar). Two steps t -> m -> s with the estimates x_0' and x_0'' end
where one step with a mean of the two ends:

    x_0 = (1 - l) x_0' + l x_0'',    l = c_ms / c_ts    (between 0 and 1)

So the net learns for a long step the mean of its own two halves, and for a step of no length what
every net learns. Nothing is differentiated forward, and no teacher has to be trained before.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ddiff.diffusion.guidance import Net, doubled
from ddiff.diffusion.objectives import Eps, Objective
from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.solvers import spaced
from ddiff.system.errors import ConfigError
from ddiff.system.told import LONGEST, encoded


class Steps(NamedTuple):
    """Steps that are to be learned, each from t through m to s, [K] int64."""

    t: Tensor
    m: Tensor
    s: Tensor
    shortest: Tensor  # bool: its halves are steps of no length to the net


@dataclass(frozen=True, eq=False)
class Shortcuts:
    """The long steps of a batch: which ones, and what the net has to predict for them.

    - `steps`: the number of the shortest steps to a sample, a power of 2. Long steps are made of
      these, and can end no nearer to the truth than so many steps of DDIM do.
    - `share`: the part of each batch that learns long steps; at least one sample does, and at least
      one does not.
    - `guidance`: the weight of classifier-free guidance that the shortest steps have. Long steps
      learn it from them, and samples then need no guidance of their own.
    - `clamp`: bound on the absolute value of the estimates of x_0 that are learned from; None sets
      no bound.
    """

    schedule: Schedule
    objective: Objective
    share: float
    steps: int = 16
    guidance: float = 0.0
    clamp: float | None = 1.0

    def __post_init__(self) -> None:
        T = self.schedule.T
        if isinstance(self.objective, Eps):
            raise ConfigError(
                "module.shortcuts: a long step starts in pure noise, where objective=eps says "
                "nothing of x_0; use objective=v, x0 or flow"
            )
        if self.steps not in (2**level for level in range(1, 16)):
            raise ConfigError(
                f"module.shortcuts_steps must be a power of 2, 2 at least, not {self.steps}"
            )
        if not self.steps <= T <= LONGEST:
            raise ConfigError(
                f"module.shortcuts: the schedule must have {self.steps} to {LONGEST} times, not {T}"
            )

    @cached_property
    def grid(self) -> Tensor:
        """The times between which steps go, from T to 0, [steps + 1] int64."""
        return spaced(self.schedule, self.steps, "trailing")

    def number(self, batch: int) -> int:
        """Return how many samples of a batch learn long steps."""
        if batch < 2:
            raise ConfigError("module.shortcuts needs batches of 2 samples at least")
        return min(batch - 1, max(1, round(self.share * batch)))

    def draw(self, number: int, generator: torch.Generator) -> Steps:
        """Draw steps: every length is as likely as the others, and so is every place of it."""
        device = generator.device
        levels = round(math.log2(self.steps))
        level = torch.randint(levels, (number,), generator=generator, device=device)
        u = torch.rand(number, generator=generator, device=device)
        half = 2**level  # in cells of the grid
        first = (u * (self.steps // (2 * half))).long() * 2 * half
        grid = self.grid.to(device)
        return Steps(grid[first], grid[first + half], grid[first + 2 * half], level == 0)

    def target(self, net: Net, x_t: Tensor, steps: Steps, y: Tensor | None) -> Tensor:
        """Return what the net has to predict, [K, C, *S], for x_t [K, C, *S] and these steps.

        - `net`: (x, what it is told, y) -> prediction; it is not differentiated.
        """
        t, m, s, shortest = steps
        with torch.no_grad():
            x_0_t = self._estimate(net, x_t, t, m, shortest, y)
            r, c = self._step(t, m, x_t)
            x_0_m = self._estimate(net, r * x_t + c * x_0_t, m, s, shortest, y)
            l = self._step(m, s, x_t)[1] / self._step(t, s, x_t)[1]  # noqa: E741
            x_0 = (1 - l) * x_0_t + l * x_0_m
            p, q = self.objective.coefficients(*self.schedule.signal_and_noise(t, x_t))
            return (x_0 - p * x_t) / q

    def _estimate(
        self, net: Net, x: Tensor, t: Tensor, s: Tensor, shortest: Tensor, y: Tensor | None
    ) -> Tensor:
        """Return the x_0 of a step from t to s."""
        say = encoded(t, torch.where(shortest, t, s))
        if y is None or self.guidance == 0:
            pred = net(x, say, y).float()
        else:
            pred, without = net(*doubled(x, say, y)).float().chunk(2)
            w = self.guidance * shortest.view(-1, *[1] * (x.ndim - 1))
            pred = (1 + w) * pred - w * without
        x_0 = self.objective.to_x_0(self.schedule, x, pred, t)
        return x_0 if self.clamp is None else x_0.clamp(-self.clamp, self.clamp)

    def _step(self, t: Tensor, s: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and c of a step of DDIM from t to s."""
        (a_t, b_t), (a_s, b_s) = (self.schedule.signal_and_noise(at, like) for at in (t, s))
        return b_s / b_t, a_s - b_s / b_t * a_t

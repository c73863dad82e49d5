"""The loss that training minimises: the mean square error of the net's prediction."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddiff.diffusion.guidance import Net, without_some
from ddiff.diffusion.objectives import Objective
from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.shortcuts import Shortcuts
from ddiff.diffusion.timesteps import TimestepSampler
from ddiff.system.phases import phase
from ddiff.system.told import encoded

# (x_0 [B, C, *S], t [B]) -> x_t and the target, both like x_0
AddNoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Losses(NamedTuple):
    """The loss of a batch, and its parts."""

    total: Tensor  # []: the value to minimise
    each: Tensor  # [B]: the unweighted mean square error of every sample
    t: Tensor  # [B]: the timesteps that were drawn
    long: int  # so many of them, the last ones, learned long steps


def loss(
    net: Net,
    x_0: Tensor,
    y: Tensor | None,
    schedule: Schedule,
    objective: Objective,
    timesteps: TimestepSampler,
    generator: torch.Generator,
    *,
    p_uncond: float = 0.0,
    widths: Sequence[int] = (),
    add_noise: AddNoise | None = None,
    shortcuts: Shortcuts | None = None,
    averaged: Net | None = None,
) -> Losses:
    """Return the loss of a batch x_0 [B, C, *S] with labels y [B], rows y [B, K] or None.

        total = mean over the batch of  weight(t) w(t) |net(x_t, t - 1, y) - target|^2,

    with `weight` from the law that draws t, w from the objective, and |.|^2 the mean square.
    `timesteps.copies` of every sample make the batch, one after another.

    - `p_uncond`: the probability with which each label is dropped.
    - `widths`: of the parts of a row, which are dropped one by one too.
    - `add_noise`: a function that noises the batch with its own random numbers; None takes the
      noise from `generator`.
    - `shortcuts`: the last K samples learn long steps, whose targets follow from predictions of
      the net `averaged`, with weight 1; None: K = 0.
    """
    if timesteps.copies > 1:
        x_0 = x_0.repeat_interleave(timesteps.copies, 0)
        y = None if y is None else y.repeat_interleave(timesteps.copies, 0)
    long = shortcuts.number(len(x_0)) if shortcuts else 0
    with phase("timesteps"):
        t, weight = timesteps.sample(len(x_0) - long, generator)
        weights = objective.weights_at(schedule, t)
        steps = shortcuts.draw(long, generator) if shortcuts else None
        if steps:
            t = torch.cat([t, steps.t])
            weight, weights = (torch.cat([w, w.new_ones(long)]) for w in (weight, weights))
    with phase("noise"):
        if add_noise:
            x_t, target = add_noise(x_0, t)
        else:
            eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
            x_t, target = noised(x_0, t, eps, schedule, objective)
        if y is not None:
            y = without_some(y, p_uncond, generator, widths)
    told = t - 1
    if shortcuts and steps:
        assert averaged
        with phase("shortcuts"):
            labels = None if y is None else y[-long:]
            learned = shortcuts.target(averaged, x_t[-long:], steps, labels)
            target = torch.cat([target[:-long], learned])
            told = torch.cat([told[:-long], encoded(steps.t, steps.s)])
    each, _ = errors(net, x_t, target, told, y)
    with phase("loss"):
        total = (each * weight * weights).mean()
    return Losses(total, each, t, long)


def noised(
    x_0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Return x_t, and the net's target for it, both [B, C, *S]."""
    return schedule.add_noise(x_0, t, eps), objective.target(schedule, x_0, eps, t)


def errors(
    net: Net, x_t: Tensor, target: Tensor, told: Tensor, y: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return every sample's unweighted mean square error [B], and the prediction [B, C, *S].

    `told` [B] is what the net is told of the time: t - 1.
    """
    with phase("forward"):
        pred = net(x_t, told, y)
    with phase("loss"):
        pred = pred.float()
        return (pred - target).square().flatten(1).mean(1), pred

"""Guidance: how predictions with and without a label become one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ddiff.system.bounds import NotNegative
from ddiff.system.errors import ConfigError

if TYPE_CHECKING:
    from ddiff.diffusion.solvers import Plan

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]
NO_LABEL = -1


class Step(NamedTuple):
    """The step of a plan that a net is asked in: its number from 0, and its weight of guidance."""

    number: int
    weight: float


@dataclass(frozen=True)
class Guidance(ABC):
    """A callable (net, x, t, y, step) -> prediction, and the weight that it has in every step."""

    @abstractmethod
    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None, step: Step) -> Tensor:
        """The prediction [B, C, *S] for x [B, C, *S] at t [B] with labels y [B] or None."""

    def weights(self, plan: "Plan") -> Tensor:
        """The weight of guidance in each of the plan's N steps, [N] float64."""
        return torch.zeros(len(plan), dtype=torch.float64)

    def check(self, num_classes: int | None, y: object = "auto") -> None:  # noqa: B027
        """Raises where there is nothing to guide towards. `y` is the option of that name."""


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """(1 + w) pred(x, t, y) - w pred(x, t, none), w = `scale` (Ho and Salimans 2022).

    Every prediction is affine in eps with the same x, so this equals guiding eps. Both halves go
    through the net in one batch; w = 0, or no labels, costs one evaluation.
    """

    scale: NotNegative = 0.0

    def __post_init__(self) -> None:
        if not self.scale >= 0:  # "not >= 0" also rejects NaN
            raise ConfigError(f"guidance.scale must be 0 or more, not {self.scale}")

    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None, step: Step) -> Tensor:
        if y is None or step.weight == 0:
            return net(x, t, y)
        with_y, without = net(*doubled(x, t, y)).chunk(2)
        return (1 + step.weight) * with_y - step.weight * without

    def weights(self, plan: "Plan") -> Tensor:
        return torch.full((len(plan),), float(self.scale), dtype=torch.float64)

    def check(self, num_classes: int | None, y: object = "auto") -> None:
        if self.scale == 0:
            return
        if num_classes is None:
            raise ConfigError(
                f"guidance.scale: {self.scale:g} guides towards labels, and this net has none; "
                "use guidance=none"
            )
        if y is None or y == "none":
            raise ConfigError(
                f"guidance.scale: {self.scale:g} guides towards labels, and y=none gives none; "
                "use guidance=none, or another y"
            )


@dataclass(frozen=True)
class Own(Guidance):
    """A plain function of the user's as guidance."""

    function: Callable[[Net, Tensor, Tensor, Tensor | None, Step], Tensor]

    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None, step: Step) -> Tensor:
        return self.function(net, x, t, y, step)


def guidance_from(built: Any) -> Guidance:
    """Return guidance itself, or wrap a plain function as guidance."""
    return built if isinstance(built, Guidance) else Own(built)


def doubled(x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One batch [2B] of the samples with their labels, then without."""
    return torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, NO_LABEL)])


def combines_two(guidance: Guidance) -> bool:
    """Return True if a prediction is (1 + w) labelled - w unlabelled, with w from the plan's row.

    Backends then combine the two inside the solver's step; any other guidance they call.
    """
    return type(guidance).__call__ is ClassifierFree.__call__


def without_some(y: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Labels y [B], each replaced by "no label" with probability `share`."""
    drop = torch.rand(y.shape, generator=generator, device=y.device) < share
    return torch.where(drop, NO_LABEL, y)

"""Guidance: combines the net's predictions with and without a label into one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ddiff.system.bounds import AverageLength, Count, NotNegative, Positive
from ddiff.system.errors import ConfigError

if TYPE_CHECKING:
    from ddiff.diffusion.solvers import Plan

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]
NO_LABEL = -1


class Step(NamedTuple):
    """One step of a plan, as guidance sees it: its number from 0, and its weight of guidance."""

    number: int
    weight: float


@dataclass(frozen=True)
class Guidance(ABC):
    """Base class of guidance: a callable (net, x, t, y, step) -> prediction, and its weights."""

    alone: ClassVar[bool] = True  # False: it needs another net than the one that is guided

    @abstractmethod
    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None, step: Step) -> Tensor:
        """Return the guided prediction [B, C, *S] for x [B, C, *S] at t [B].

        The net is (x, t, y) -> prediction. y holds labels [B] or rows [B, K] of conditions; None:
        nothing is told.
        """

    def weights(self, plan: "Plan") -> Tensor:
        """The weight of guidance in each of the plan's N steps, [N] float64."""
        return torch.zeros(len(plan), dtype=torch.float64)

    def asks_twice(self, labelled: bool) -> bool:
        """Return True if a step of a weight above 0 asks a net twice, given labels or not."""
        return False

    def check(self, conditional: bool, y: object = "auto") -> None:  # noqa: B027
        """Raise ConfigError if there are no labels to guide towards.

        - `conditional`: whether the net is told a label or other conditions.
        - `y`: the option of that name.
        """


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Classifier-free guidance (Ho and Salimans 2022): (1 + w) pred(x, t, y) - w pred(x, t, none).

    The weight w is `scale`. Every prediction is affine in eps with the same x, so this equals
    guiding eps. Both predictions come from one batch through the net. With w = 0, or without
    labels, a step costs one evaluation.
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

    def asks_twice(self, labelled: bool) -> bool:
        return labelled

    def check(self, conditional: bool, y: object = "auto") -> None:
        if self.scale == 0:
            return
        if not conditional:
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
class Interval(ClassifierFree):
    """Classifier-free guidance in a band of noise levels only (Kynkaanniemi et al. 2024).

    It acts where sigma_low < sigma <= sigma_high, with sigma = noise / signal. At other levels a
    step costs one evaluation. Guidance at much noise costs variety, and at little it does nothing.
    """

    sigma_low: NotNegative = 0.3
    sigma_high: Positive = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sigma_low < self.sigma_high:
            raise ConfigError(
                f"guidance: sigma_low {self.sigma_low:g} must lie below sigma_high "
                f"{self.sigma_high:g}, and not below 0"
            )

    def weights(self, plan: "Plan") -> Tensor:
        sigma = plan.schedule.sigma[plan.times[:-1]]
        within = (self.sigma_low < sigma) & (sigma <= self.sigma_high)
        return within * super().weights(plan)


@dataclass(frozen=True)
class Weaker(Guidance):
    """Autoguidance (Karras et al. 2024): (1 + w) pred(x, t, y) - w weaker(x, t, y); w is `scale`.

    The weaker net is one of the same run: fewer steps or another average of its weights. What both
    do not know is not amplified; what training has still improved is. It needs no labels. A step
    costs two evaluations.

    - `of`: the weights of the weaker net: "ema", "net", or the length of an average.
    - `step`: the step of a snapshot of power averages, for a younger net; None: the last one.
    - `run`: another run, of a smaller net; None: the run itself.
    - `weaker`: the net itself; None until samples are drawn.
    """

    alone: ClassVar[bool] = False
    scale: NotNegative = 1.0
    of: Literal["ema", "net"] | AverageLength = "net"
    step: Count | None = None
    run: str | None = None
    weaker: Net | None = None

    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None, step: Step) -> Tensor:
        if step.weight == 0:
            return net(x, t, y)
        assert self.weaker is not None
        return (1 + step.weight) * net(x, t, y) - step.weight * self.weaker(x, t, y)

    def weights(self, plan: "Plan") -> Tensor:
        return torch.full((len(plan),), float(self.scale), dtype=torch.float64)

    def asks_twice(self, labelled: bool) -> bool:
        return True


@dataclass(frozen=True)
class Own(Guidance):
    """Guidance by a plain function of the user."""

    function: Callable[[Net, Tensor, Tensor, Tensor | None, Step], Tensor]

    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None, step: Step) -> Tensor:
        return self.function(net, x, t, y, step)


def guidance_from(built: Any) -> Guidance:
    """Return a guidance as it is; wrap a plain function as a guidance."""
    return built if isinstance(built, Guidance) else Own(built)


def nothing_like(y: Tensor) -> Tensor:
    """Return y with nothing given: labels -1, rows of numbers NaN."""
    return torch.full_like(y, float("nan") if y.is_floating_point() else NO_LABEL)


def doubled(x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return one batch [2B]: the samples with their labels, then the same ones without."""
    return torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, nothing_like(y)])


def combines_two(guidance: Guidance) -> bool:
    """Return True if a prediction is (1 + w) labelled - w unlabelled, with w from the plan's row.

    Backends then combine the two inside the solver's step. They call any other guidance as a
    function.
    """
    return type(guidance).__call__ is ClassifierFree.__call__


def without_some(
    y: Tensor, share: float, generator: torch.Generator, widths: Sequence[int] = ()
) -> Tensor:
    """Return labels y [B], each replaced by NO_LABEL with probability `share`.

    Rows y [B, K] lose all their parts with that probability, and else each part with it. `widths`
    are the parts' widths.
    """
    if y.ndim == 1:
        drop = torch.rand(y.shape, generator=generator, device=y.device) < share
        return torch.where(drop, NO_LABEL, y)
    parts = len(widths) if len(widths) > 1 else 0
    drop = torch.rand(len(y), 1 + parts, generator=generator, device=y.device) < share
    each = drop[:, :1].expand(-1, y.shape[1])
    if parts:
        sizes = torch.tensor(widths, device=y.device)
        each = each | drop[:, 1:].repeat_interleave(sizes, dim=1, output_size=y.shape[1])
    return torch.where(each, nothing_like(y), y)

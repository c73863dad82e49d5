"""Classifier-free guidance (Ho and Salimans 2022)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddiff.bounds import NotNegative
from ddiff.errors import ConfigError

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]
NO_LABEL = -1


@dataclass(frozen=True)
class ClassifierFree:
    """(1 + w) pred(x, t, y) - w pred(x, t, none), w = `scale`.

    Every prediction is affine in eps with the same x, so this equals guiding eps. Both halves go
    through the net in one batch; w = 0, or no labels, costs one evaluation.
    """

    scale: NotNegative = 0.0

    def __post_init__(self) -> None:
        if not self.scale >= 0:  # nor NaN
            raise ConfigError(f"guidance.scale must be 0 or more, not {self.scale}")

    def require_labels(self, num_classes: int | None, y: object = "auto") -> None:
        """Refuses guidance that has nothing to guide towards: its samples would be the unguided
        ones under another name. `y` is the option of that name."""
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

    def __call__(self, net: Net, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        if y is None or self.scale == 0:
            return net(x, t, y)
        both = torch.cat([y, torch.full_like(y, NO_LABEL)])
        with_y, without = net(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return (1 + self.scale) * with_y - self.scale * without

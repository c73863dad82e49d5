"""Gradient scaling for float16, and nothing else: autocast belongs to ddiff.precision."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.optim import Optimizer


class GradientScaling(Precision):
    """Scales the loss, unscales before clipping, skips steps with overflow.

    Lightning's own plugin refuses to clip with fused optimisers; these take unscaled gradients too.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler(device.type)

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:
        return super().pre_backward(self.scaler.scale(tensor), module)

    def optimizer_step(
        self, optimizer: Optimizer, model: LightningModule, closure: Callable, **kwargs: Any
    ) -> Any:
        result = closure()
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return result

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state_dict)

"""Plugins that replace parts of Lightning: checkpoint files and gradient scaling."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from ddiff.system.checkpoints import load_checkpoint, save_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole files, reads tensors and plain values only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path), map_location)


class GradientScaling(Precision):
    """Gradient scaling for float16 and nothing else: autocast belongs to ddiff.system.precision.

    Scales the loss, unscales before clipping, skips steps with overflow.

    Lightning's own plugin refuses to clip with fused optimisers; these take unscaled gradients too.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler(device.type)

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:
        return super().pre_backward(self.scaler.scale(tensor), module)

    def optimizer_step(
        self, optimizer: Any, model: LightningModule, closure: Callable, **kwargs: Any
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

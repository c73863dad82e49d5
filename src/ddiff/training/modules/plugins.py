"""Where Lightning's own parts are not enough."""

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch import Tensor

from ddiff.system.checkpoints import load_checkpoint, save_checkpoint
from ddiff.system.errors import DdiffError


class Board(TensorBoardLogger):
    """TensorBoard in <run>/tensorboard, without Lightning's count of epochs: here it stays 0.

    Its thread writes the events. What that thread cannot write, for want of disk space, is a
    DdiffError of the next call, which ends the training.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        threading.excepthook = partial(_writer_failed, run_dir, threading.excepthook)
        purge = None if resume_step is None else resume_step + 1
        super().__init__(str(run_dir), name="", version="tensorboard", purge_step=purge)
        self.tags: set[str] = set()  # of all scalars that went through log_metrics

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        scalars = {k: v for k, v in metrics.items() if k != "epoch"}
        self.tags.update(scalars)
        super().log_metrics(scalars, step)


def _writer_failed(
    run_dir: Path,
    otherwise: Callable[[threading.ExceptHookArgs], Any],
    args: threading.ExceptHookArgs,
) -> None:
    """Keeps the error of TensorBoard's thread for its callers instead of printing a traceback."""
    if not isinstance(args.thread, _AsyncWriterThread) or not isinstance(args.exc_value, OSError):
        otherwise(args)
        return
    why = args.exc_value.strerror or args.exc_value
    saved = (run_dir / "checkpoints" / "last.ckpt").is_file()
    hint = f"; the last checkpoint is intact: make room, then go on with ckpt_path={run_dir}"
    args.thread.exception = DdiffError(
        f"cannot write {run_dir / 'tensorboard'}: {why}{hint if saved else ''}"
    )


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

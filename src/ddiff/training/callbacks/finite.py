"""A loss that is not a number stops the run before anything bad is saved."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ddiff.system.errors import DdiffError
from ddiff.training.callbacks.order import When


class StopOnNaN(Callback):
    """Checks every step on a CPU; on a GPU every `every` steps, since looking means waiting."""

    when = When.CHECK

    def __init__(self, every: int = 50) -> None:
        self.every = every
        # step, losses [B], t [B] where there are timesteps
        self.waiting: list[tuple[int, Tensor, Tensor | None]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.waiting.append((trainer.global_step, outputs["losses"], outputs.get("t")))
        on_cpu = outputs["losses"].device.type == "cpu"
        if on_cpu or len(self.waiting) >= self.every:
            self.check()

    def check(self) -> None:
        """Raises for the first loss so far that is not finite; called before every save."""
        waiting, self.waiting = self.waiting, []
        if not waiting or all(bool(torch.isfinite(losses).all()) for _, losses, _ in waiting):
            return
        for step, losses, t in waiting:
            bad = ~torch.isfinite(losses)
            if bool(bad.any()):
                where = f"step {step}"
                if t is not None:
                    where += f", timestep {', '.join(map(str, t[bad].tolist()[:4]))}"
                raise DdiffError(
                    f"the loss is not a number at {where}; the checkpoint "
                    "before it is intact. Try a lower optimizer.lr or precision=fp32"
                )

"""A loss that is not a number stops the run before anything bad is saved."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ddiff.system.errors import DdiffError
from ddiff.training.callbacks.order import When
from ddiff.training.ranks import Agreement, end_all


class StopOnNaN(Callback):
    """Checks every step on a CPU; on a GPU every `every` steps, since looking means waiting.

    A loss of any rank counts: all of them stop, and rank 0 says what was found.
    """

    when = When.CHECK

    def __init__(self, every: int = 50) -> None:
        self.every, self.ranks = every, Agreement()
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
        if not waiting:
            return
        fine = all(bool(torch.isfinite(losses).all()) for _, losses, _ in waiting)
        if self.ranks.largest(int(not fine)):
            found = self.ranks.gathered(None if fine else _where(waiting))
            end_all(
                DdiffError(
                    f"the loss is not a number at {next(filter(None, found))}; the checkpoint "
                    "before it is intact. Try a lower optimizer.lr or precision=fp32"
                )
            )


def _where(waiting: list[tuple[int, Tensor, Tensor | None]]) -> str:
    """Step and timesteps of the first losses that are not finite."""
    step, losses, t = next(one for one in waiting if not bool(torch.isfinite(one[1]).all()))
    if t is None:
        return f"step {step}"
    bad = t[~torch.isfinite(losses)].tolist()[:4]
    return f"step {step}, timestep {', '.join(map(str, bad))}"

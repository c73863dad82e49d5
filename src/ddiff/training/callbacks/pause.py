"""A pause: the training stops after a step from which it can be continued exactly."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Pause(Callback):
    """Stops after step `at`. Lightning then validates, and the other callbacks act as after the
    last step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        trainer.should_stop |= stepped and trainer.global_step == self.at

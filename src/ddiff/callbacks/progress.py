"""Where the training is, and how fast it goes."""

import time
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.console import Meter, progress
from ddiff.modules import Learner


class Progress(Callback):
    """Shows steps and loss; measures the time inside training batches (not the pauses for
    validation, samples and checkpoints), logged as speed/samples_per_second."""

    def __init__(self, batch_size: int, every: int) -> None:
        self.every = every  # steps between reports
        self.batch_size = batch_size  # of a micro-batch and rank
        self.busy, self.batches = 0.0, 0  # of this process, the first batch left out
        self.seconds, self.images = 0.0, 0  # inside training batches, from the very start
        self._started = 0.0
        self._first = True
        self._stack = ExitStack()
        self._meter: Meter | None = None

    @property
    def samples_per_second(self) -> float:
        return self.batches * self.batch_size / self.busy if self.busy else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batch_size *= trainer.world_size
        if trainer.is_global_zero:
            self._meter = self._stack.enter_context(progress("training", trainer.max_steps))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        self.images += self.batch_size
        if not self._first:
            self.busy += seconds
            self.batches += 1
        self._first = False
        if trainer.global_step % self.every == 0 and self._meter:
            loss = float(outputs["loss"])
            self._meter(
                trainer.global_step, f"loss {loss:.4f}  {self.samples_per_second:.1f} samples/s"
            )
            pl_module.log_dict(
                {
                    "speed/samples_per_second": self.samples_per_second,
                    "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
                    "train/epochs": self._epochs(trainer, pl_module),
                }
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["spent"] = {"seconds": self.seconds, "images": self.images}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        spent = checkpoint.get("spent", {})  # the first checkpoints had none
        self.seconds, self.images = spent.get("seconds", 0.0), spent.get("images", 0)

    @staticmethod
    def _epochs(trainer: Trainer, pl_module: LightningModule) -> float:
        assert isinstance(pl_module, Learner)
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        return pl_module.batches_seen / data.batches_per_epoch

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._meter:
            total = sum(trainer.num_val_batches)
            self._meter(trainer.global_step, f"validating {batch_idx + 1}/{total:g}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stack.close()
        self._meter = None

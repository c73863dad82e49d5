"""Progress of the training: its step, its loss, and its speed."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.system.console import Meter, progress
from ddiff.training.callbacks.order import When
from ddiff.training.loggers import log_figures
from ddiff.training.modules import Learner


@dataclass
class Pace:
    """Some micro-batches of this process."""

    batches: int = 0
    seconds: float = 0.0  # with the waiting, without pauses
    waited: float = 0.0

    def add(self, seconds: float, waited: float) -> None:
        self.batches += 1
        self.seconds += seconds
        self.waited += waited

    def figures(self, batch_size: int, accumulate: int) -> dict[str, float]:
        """Figures of a whole step of all ranks; {} without batches."""
        if not self.batches:
            return {}
        return {
            "samples_per_second": self.batches * batch_size / self.seconds,
            "step_seconds": self.seconds / self.batches * accumulate,
            "data_wait": self.waited / self.seconds,
        }


class Progress(Callback):
    """Shows steps and loss, and logs what a step took since the last report, waiting for its data
    included. Pauses (validation, samples, evaluations, saves) are not in it: their callbacks come
    after this one, and after them `Resumed`.

    On a GPU each report begins by waiting for the loss, so its means are of work that was done.
    """

    when = When.END

    def __init__(self, batch_size: int, every: int, began: float) -> None:
        self.every = every  # steps between reports
        self.began = began  # of this process's run, by time.perf_counter
        self.wall_before = 0.0  # of the run's earlier processes, up to the checkpoint
        self.batch_size = batch_size  # of a micro-batch and rank
        self.accumulate = 1
        self.all, self.recent = Pace(), Pace()  # the first batch left out, and since the report
        self.seconds, self.images = 0.0, 0  # of training without pauses, from the very start
        self.idle_since = self._started = 0.0
        self._first = True
        self._stack = ExitStack()
        self._meter: Meter | None = None

    def wall(self) -> float:
        """Seconds of the run from its very start, pauses included, without the time between its
        processes."""
        return self.wall_before + time.perf_counter() - self.began

    @property
    def samples_per_second(self) -> float:
        return self.figures().get("samples_per_second", 0.0)

    def figures(self) -> dict[str, float]:
        """Figures of this process's training so far."""
        return self.all.figures(self.batch_size, self.accumulate)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batch_size *= trainer.world_size
        self.accumulate = trainer.accumulate_grad_batches
        if trainer.is_global_zero:
            self._meter = self._stack.enter_context(progress("training", trainer.max_steps))
        self.idle_since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        reporting = self._meter and reports(trainer, batch_idx, self.every)
        assert isinstance(pl_module, Learner)
        latest = {k: float(v) for k, v in pl_module.latest.items()} if reporting else None
        waited = self._started - self.idle_since
        seconds = time.perf_counter() - self.idle_since
        self.seconds += seconds
        self.images += self.batch_size
        if not self._first:
            self.all.add(seconds, waited)
            self.recent.add(seconds, waited)
        self._first = False
        if latest is not None:
            self._report(trainer, pl_module, latest)

    def _report(self, trainer: Trainer, pl_module: Learner, latest: dict[str, float]) -> None:
        recent = self.recent.figures(self.batch_size, self.accumulate)
        self.recent = Pace()
        rate = f"  {recent['samples_per_second']:.1f} samples/s" if recent else ""
        assert self._meter
        self._meter(trainer.global_step, f"loss {latest['train/loss']:.4f}{rate}")
        figures = {
            **latest,
            **{f"speed/{name}": value for name, value in recent.items()},
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/epochs": self._epochs(trainer, pl_module),
        }
        log(trainer, figures)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["spent"] = {
            "seconds": self.seconds,
            "images": self.images,
            "wall": self.wall(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        spent = checkpoint.get("spent", {})  # the first checkpoints had none
        self.seconds, self.images = spent.get("seconds", 0.0), spent.get("images", 0)
        self.wall_before = spent.get("wall", self.seconds)

    @staticmethod
    def _epochs(trainer: Trainer, pl_module: Learner) -> float:
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


class Resumed(Callback):
    """The last of the callbacks: pauses end here, and the wait for the next batch begins."""

    when = When.RESUME

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.progress.idle_since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.idle_since = time.perf_counter()


def log(trainer: Trainer, figures: dict[str, float]) -> None:
    """Log the figures at the number that Lightning gives this step: of the steps done before it."""
    log_figures(trainer, figures, trainer.global_step - 1)


def reports(trainer: Trainer, batch_idx: int, every: int) -> bool:
    """Return True if this batch ended an optimiser step, and this step is one that is logged."""
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return stepped and trainer.global_step % every == 0

"""last.ckpt and best.ckpt, at moments from which resuming is exact; and leaving on a signal."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.system.environment import version_of
from ddiff.system.errors import Stopped
from ddiff.training.callbacks.finite import StopOnNaN
from ddiff.training.callbacks.order import When
from ddiff.training.ranks import Agreement, end_all

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")


class AtStart(Callback):
    """Calls `begin` when everything is restored and the training is about to start."""

    when = When.START

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin()


class Checkpoints(Callback):
    """Saves after an optimiser step (never between accumulated batches), after the validation of
    that step where there is one, every `every` steps, at the end, and when asked to stop.

    Signals that ask: SIGTERM, SIGINT, and SIGHUP (a connection that breaks) unless it is ignored,
    as under nohup. A signal to any rank stops all of them after the same step, saved once.
    """

    when = When.SAVE

    def __init__(self, run_dir: Path, config: dict[str, Any], every: int, nan: StopOnNaN) -> None:
        self.folder = run_dir / "checkpoints"
        self.run_dir = run_dir
        self.config, self.every, self.nan = config, every, nan
        self.best = float("inf")
        self.saved_step = -1
        self.signum: int | None = None
        self._handlers: dict[int, Any] = {}
        self.ranks = Agreement()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["ddiff"] = {
            "version": version_of("ddiff"),
            "threads": torch.get_num_threads(),
            "ranks": trainer.world_size,
            **self.config,
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step
        if trainer.received_sigterm:  # while the trainer began: Lightning would end with status 0
            self.signum = signal.SIGTERM
            trainer._signal_connector.received_sigterm = False
        for name in SIGNALS:
            signum = getattr(signal, name, None)  # Windows has no SIGHUP
            if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                self._handlers[signum] = signal.signal(signum, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, accumulate = trainer.global_step, trainer.accumulate_grad_batches
        between_steps = (batch_idx + 1) % accumulate != 0
        assert isinstance(trainer.val_check_batch, int)
        validation_due = (batch_idx + 1) % trainer.val_check_batch == 0
        validation_next = validation_due and trainer.enable_validation
        if not between_steps and not validation_next and step != self.saved_step:
            self._save_if_due(trainer, step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        if loss < self.best:
            self.best = loss
            self._save(trainer, "best.ckpt")
        self._save_if_due(trainer, trainer.global_step)

    def _save_if_due(self, trainer: Trainer, step: int) -> None:
        last = step >= trainer.max_steps or trainer.should_stop
        # saving is collective: a rank may not act on a signal that the others do not know yet
        signum = self.ranks.largest(self.signum or 0)
        if last or signum or step - self.saved_step >= self.every:
            self._save(trainer, "last.ckpt")
            self.saved_step = step
        if signum and not last:
            name = signal.Signals(signum).name
            text = f"stopped by {name} after step {step}; resume with ckpt_path={self.run_dir}"
            end_all(Stopped(text, signum))

    def _save(self, trainer: Trainer, name: str) -> None:
        self.nan.check()
        trainer.save_checkpoint(self.folder / name)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, self._handlers[signum] or signal.SIG_DFL)  # the second one kills

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # before Lightning puts back what was there before it: later, its own handler would be put
        # back, which ignores SIGTERM and keeps the whole run in memory
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}

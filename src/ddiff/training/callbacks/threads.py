"""Threads that follow what other programs leave idle, while the training goes on."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.system.console import console
from ddiff.system.threads import Cores, fitting
from ddiff.training.callbacks.order import When


class AdaptThreads(Callback):
    """Looks every `seconds` at what other programs do, and sets the number of threads to suit.

    Results depend on that number, so such a training cannot be repeated bit for bit.
    """

    when = When.PAUSE

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds = seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.most, self.cores = torch.get_num_threads(), Cores()
        self._look(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self.looked >= self.seconds:
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        idle = self.cores.idle()
        self.looked = time.monotonic()
        number = self.most if idle is None else fitting(idle, self.most)
        if number != torch.get_num_threads():
            torch.set_num_threads(number)
            console.print(f"threads={number} after step {trainer.global_step}")

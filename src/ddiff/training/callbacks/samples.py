"""Samples while training: to look at (a picture, the numbers, a mesh), and to measure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.config.options import Steps
from ddiff.system.files import replacing, write_json
from ddiff.training.callbacks.order import When
from ddiff.training.callbacks.progress import Progress
from ddiff.training.loggers import board_of, log_figures, log_picture
from ddiff.training.modules import DDPM

Found = dict[str, Any]  # as evaluations/*.json


class Samples(Callback):
    """Every `every` steps, and after the last; `generate` None: the module makes no pictures."""

    when = When.PAUSE

    def __init__(
        self,
        run_dir: Path,
        every: Steps,
        generate: Callable[[Any], np.ndarray] | None,
        columns: int | None = None,
    ) -> None:
        self.folder = run_dir / "samples"
        self.every, self.generate, self.columns = every, generate, columns

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.generate and due(trainer, batch_idx, self.every):
            self.show(trainer, trainer.global_step, self.generate(pl_module))

    def show(self, trainer: Trainer, step: int, samples: np.ndarray) -> None:
        from ddiff.pages.view import mesh_tensors, picture, save_png

        grid = picture(samples, self.columns)
        save_png(grid, self.folder / f"step_{step:06d}.png")
        with replacing(self.folder / f"step_{step:06d}.npy") as file:
            np.save(file, samples)
        log_picture(trainer, "samples", grid, step)
        board = board_of(trainer.loggers)
        if samples.ndim == 5 and board:
            vertices, faces, colors = mesh_tensors(samples[:4])
            board.experiment.add_mesh(
                "volumes",
                torch.from_numpy(vertices),
                torch.from_numpy(colors),
                torch.from_numpy(faces),
                global_step=step,
            )
            board.experiment.flush()


class Evaluations(Callback):
    """Every `every` steps, and after the last: `examine(module)` to evaluations/step_000500.json
    and the loggers. None: no evaluations."""

    when, generative = When.PAUSE, True

    def __init__(
        self,
        run_dir: Path,
        every: Steps | None,
        examine: Callable[[DDPM], Found] | None,
        progress: Progress,
    ) -> None:
        self.folder = run_dir / "evaluations"
        self.every, self.examine, self.progress = every, examine, progress
        self.last: Found | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.every or not self.examine or not due(trainer, batch_idx, self.every):
            return
        assert isinstance(pl_module, DDPM)
        step = trainer.global_step
        self.last = {
            "step": step,
            "images_seen": self.progress.images,
            "train_seconds": round(self.progress.seconds, 3),
            **self.examine(pl_module),
        }
        write_json(self.folder / f"step_{step:06d}.json", self.last)
        figures = {f"quality/{figure['name']}": figure["value"] for figure in self.last["figures"]}
        log_figures(trainer, figures, step)


def due(trainer: Trainer, batch_idx: int, every: int) -> bool:
    """Return True if rank 0 acts now: every `every` optimiser steps, and after the last one."""
    step = trainer.global_step
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    last = step >= trainer.max_steps or trainer.should_stop
    return trainer.is_global_zero and stepped and (step % every == 0 or last)

"""How good the samples are while training goes on: figures at intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.config.options import Steps
from ddiff.system.files import write_json
from ddiff.training.callbacks.order import When
from ddiff.training.callbacks.progress import Progress
from ddiff.training.callbacks.samples import due
from ddiff.training.loggers import log_figures
from ddiff.training.modules import DDPM

Found = dict[str, Any]  # as evaluations/*.json


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

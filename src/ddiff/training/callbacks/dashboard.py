"""The first page of TensorBoard: which curves belong together."""

import re
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.config.options import Steps
from ddiff.training.callbacks.order import When
from ddiff.training.callbacks.progress import reports
from ddiff.training.loggers import TensorBoard, board_of

SHARE = (
    "precision|recall|density|coverage.*|accuracy|validity|one_piece|closer_to_train|one_nn.*|"
    "held_out_copies"
)
CATEGORIES = {  # category, chart, and the tags in it as a pattern; no tag matches two patterns
    "Quality": {
        "loss": "(train|val)/loss",
        "intersection over union": "val/iou",
        "accuracy": "val/accuracy",
        "reconstruction, root mean square error": "val/reconstruction",
        "reconstruction, PSNR in dB": "val/psnr",
        "rate, bits per latent value": "(train|val)/rate",
        "FID": "quality/fid",
        "KID": "quality/kid",
        "shares": f"quality/({SHARE})",
        "overlap": "quality/(sphere|solid)_iou",
        "distance to the true law": "quality/.*_d",
        "p-value of the true law": "quality/.*_p",
        "PSNR, dB": "quality/(nearest_)?psnr(_mean)?",
        "SSIM": "quality/(nearest_)?ssim",
        "distance to the nearest": "quality/(?!nearest_(psnr|psnr_mean|ssim)$)(nearest|mmd)_.*",
    },
    "Loss by timestep": {
        "validation loss by tenth of t": "val_loss/.*",
        "training loss by tenth of t": "timesteps_loss/.*",
    },
    "Timestep sampler": {
        "share of draws by tenth of t": "timesteps_p/.*",
        "score by tenth of t": "timesteps_score/.*",
        "effective sample size and exploration": "timesteps/.*",
    },
    "Optimiser": {
        "gradient norm": "train/grad_norm",
        "learning rate": "train/lr",
        "epochs": "train/epochs",
    },
    "Speed": {
        "samples a second": "speed/samples_per_second",
        "seconds a step": "speed/step_seconds",
        "share of a step spent waiting for data": "speed/data_wait",
        "use of processor and GPU, percent": "device/(cpu|gpu)_use_percent",
        "power of the GPU, watts": "device/gpu_power_watts",
        "temperature of the GPU, Celsius": "device/gpu_celsius",
    },
    "Memory": {
        "process, MiB": "memory/process.*",
        "GPU, MiB": "memory/gpu.*",
        "free disk, GiB": "device/disk_free_gb",
        "this run on disk, MiB": "device/run_mb",
    },
}

Layout = dict[str, dict[str, list[Any]]]  # as SummaryWriter.add_custom_scalars has it


def layout(tags: Iterable[str]) -> Layout:
    """The charts that these tags belong to, by category.

    A tag that no pattern matches has a chart of its own, in `Quality` where it is a figure of
    samples, else in `More`.

    TensorBoard merges the layouts of all runs that it shows. It keeps two charts of one title
    unless they are equal, so a chart holds its pattern, whichever tags a run has of it. It drops
    charts of a category that the first run lacks, so that every category is there, even empty.
    """
    left = set(tags)
    found: Layout = {category: {} for category in CATEGORIES}
    for category, charts in CATEGORIES.items():
        for chart, pattern in charts.items():
            here = {tag for tag in left if re.fullmatch(pattern, tag)}
            left -= here
            if here:
                found[category][chart] = multiline(pattern)
    for tag in sorted(left):
        group, _, name = tag.rpartition("/")
        category, chart = ("Quality", name) if group == "quality" else ("More", tag)
        found.setdefault(category, {})[chart] = multiline(re.escape(tag))
    return found


def multiline(pattern: str) -> list[Any]:
    return ["Multiline", [f"{pattern}$"]]


class Dashboard(Callback):
    """Lays out what the run has logged, again when there is more: TensorBoard shows the last."""

    when = When.SHOW

    def __init__(self, every: Steps) -> None:
        self.every = every
        self.board: TensorBoard | None = None
        self.laid_out: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.board = board_of(trainer.loggers)

    def state_dict(self) -> dict[str, Any]:
        return {"tags": sorted(self.board.tags) if self.board else []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.board:
            self.board.tags.update(state_dict["tags"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and reports(trainer, batch_idx, self.every):
            self._lay_out()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._lay_out()

    def _lay_out(self) -> None:
        if self.board and self.board.tags != self.laid_out:
            self.laid_out = set(self.board.tags)
            self.board.experiment.add_custom_scalars(layout(self.laid_out))

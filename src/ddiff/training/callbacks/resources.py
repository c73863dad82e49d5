"""Use of the machine by the training, in TensorBoard and in the run's summary."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ddiff.config.options import Steps
from ddiff.system.console import console
from ddiff.system.errors import DdiffError
from ddiff.system.resources import CpuUse, Nvml, allocator, disk, process_memory
from ddiff.training.callbacks.order import When
from ddiff.training.callbacks.progress import Progress, log, reports

PEAKS = ("process_peak_mb", "gpu_peak_mb")
IN_WORDS = {
    "speed": {
        "step_seconds": "{:.3g} s a step",
        "data_wait": "{:.1%} of it waiting for data",
        "cpu_use_percent": "CPU {:.0f}%",
        "gpu_use_percent": "GPU {:.0f}%",
        "gpu_power_watts": "{:.0f} W",
    },
    "memory": {
        "process_peak_mb": "process up to {:.0f} MiB",
        "gpu_peak_mb": "GPU up to {:.0f} MiB",
        "run_mb": "on disk {:.1f} MiB",
        "disk_free_gb": "{:.3g} GiB free there",
    },
}
Figures = dict[str, float]


class Resources(Callback):
    """Every `every` steps, though at most once in so many `seconds`: figures of rank 0's process
    and GPU. The peaks in the summary are those of the worst rank."""

    when = When.MEASURE

    def __init__(
        self, run_dir: Path, every: Steps, progress: Progress, seconds: float = 1.0
    ) -> None:
        self.run_dir, self.every, self.progress, self.seconds = run_dir, every, progress, seconds
        self.measured = float("-inf")  # when last
        self.readings, self.gpu_sums = 0, dict[str, float]()
        self.summary: Figures = {}  # once the training is over

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.cpu, self.cpu_of_all = CpuUse(), CpuUse()
        on_gpu = pl_module.device.type == "cuda"
        self.device = pl_module.device if on_gpu else None
        self.gpu: Callable[[], Figures] = dict
        if on_gpu and trainer.is_global_zero:
            self.gpu = gpu_readings(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = trainer.is_global_zero and reports(trainer, batch_idx, self.every)
        if due and time.perf_counter() - self.measured >= self.seconds:
            self.measured = time.perf_counter()
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        gpu = self.gpu()
        self.readings += 1
        self.gpu_sums = {name: self.gpu_sums.get(name, 0) + value for name, value in gpu.items()}
        device = {"cpu_use_percent": self.cpu(), **gpu, **disk(self.run_dir)}
        figures = {f"device/{name}": value for name, value in device.items()}
        figures |= {f"memory/{name}": value for name, value in self._memory().items()}
        log(trainer, figures)

    def _memory(self) -> Figures:
        return process_memory() | (allocator(self.device) if self.device else {})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        memory = self._memory()
        peaks = {name: memory[name] for name in PEAKS if name in memory}
        if trainer.world_size > 1:
            ranks = pl_module.all_gather(torch.tensor(list(peaks.values())))
            assert isinstance(ranks, Tensor)
            peaks = dict(zip(peaks, ranks.amax(0).tolist(), strict=True))
        pace = self.progress.figures()
        self.summary = {
            **{name: pace[name] for name in ("step_seconds", "data_wait") if name in pace},
            "cpu_use_percent": self.cpu_of_all(),
            **{name: total / self.readings for name, total in self.gpu_sums.items()},
            **peaks,
            **disk(self.run_dir),
        }


def in_words(taken: Figures) -> list[str]:
    """Two lines of a summary, as far as they go."""
    lines = {
        title: [form.format(taken[name]) for name, form in forms.items() if name in taken]
        for title, forms in IN_WORDS.items()
    }
    return [f"{title:<12}{', '.join(words)}" for title, words in lines.items() if words]


def gpu_readings(device: torch.device) -> Callable[[], Figures]:
    """Use, power and temperature; nothing where they cannot be had, which is said once."""

    def say(why: str) -> None:
        console.print(f"no device/gpu_* in TensorBoard: {why}")

    try:
        return Nvml(str(torch.cuda.get_device_properties(device).uuid), say)
    except DdiffError as error:
        say(str(error))
        return dict

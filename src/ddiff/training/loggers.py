"""Loggers of a training's figures: TensorBoard, a CSV file, or a service of the user's."""

import csv
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from ddiff.config.targets import build_asking
from ddiff.system.errors import ConfigError, DdiffError

SERVICES = {"wandb": "wandb", "mlflow": "mlflow"}  # a logger here, and the package that it needs
COLUMNS = ("process", "step", "seconds", "tag", "value")


class TensorBoard(TensorBoardLogger):
    """TensorBoard in <run>/tensorboard, without Lightning's count of epochs: here it stays 0.

    Its thread writes the events. What that thread cannot write, for want of disk space, is a
    DdiffError of the next call, which ends the training.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        threading.excepthook = partial(_writer_failed, run_dir, threading.excepthook)
        purge = None if resume_step is None else resume_step + 1
        super().__init__(str(run_dir), name="", version="tensorboard", purge_step=purge)
        self.tags: set[str] = set()  # of all scalars that went through log_metrics

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        scalars = {k: v for k, v in metrics.items() if k != "epoch"}
        self.tags.update(scalars)
        super().log_metrics(scalars, step)


def _writer_failed(
    run_dir: Path,
    otherwise: Callable[[threading.ExceptHookArgs], Any],
    args: threading.ExceptHookArgs,
) -> None:
    """Keeps the error of TensorBoard's thread for its callers instead of printing a traceback."""
    if not isinstance(args.thread, _AsyncWriterThread) or not isinstance(args.exc_value, OSError):
        otherwise(args)
        return
    why = args.exc_value.strerror or args.exc_value
    saved = (run_dir / "checkpoints" / "last.ckpt").is_file()
    hint = f"; the last checkpoint is intact: make room, then go on with ckpt_path={run_dir}"
    args.thread.exception = DdiffError(
        f"cannot write {run_dir / 'tensorboard'}: {why}{hint if saved else ''}"
    )


class CSV(Logger):
    """<run>/metrics.csv, a line for each figure: process, step, seconds, tag, value.

    A run that is resumed adds lines. Those of `process` 1 beyond the first step of process 2 were
    lost and done again. `seconds` counts from the start of the process.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self.started, self.process = time.time(), 0

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return "csv"

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """No-op: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        first = not self.process
        if first:
            self.process = 1 + _last_process(self.path)
        seconds = round(time.time() - self.started, 3)
        rows = [
            (self.process, (step or 0) + 1, seconds, tag, float(value))
            for tag, value in metrics.items()
            if tag != "epoch"
        ]
        try:
            with open(self.path, "a", newline="") as file:
                writer = csv.writer(file)
                if not file.tell():
                    writer.writerow(COLUMNS)
                writer.writerows(rows)
        except OSError as error:
            raise DdiffError(f"cannot write {self.path}: {error.strerror or error}") from error


def _last_process(path: Path) -> int:
    """The number of the last process in the file, whose last line a kill may have cut short."""
    if not path.is_file():
        return 0
    with open(path, "r+", newline="") as file:
        text = file.read()
        if text and not text.endswith("\n"):
            file.truncate(text.rfind("\n") + 1)
    numbers = (line.partition(",")[0] for line in text.splitlines()[1:])
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def wandb(run_dir: Path, project: str = "ddiff", offline: bool = False) -> Logger:
    """Weights & Biases; its own files lie in the run. A resumed run is a run of its own there."""
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(name=str(run_dir), project=project, offline=offline, save_dir=str(run_dir))


def mlflow(run_dir: Path, experiment: str = "ddiff", tracking_uri: str | None = None) -> Logger:
    """MLflow; without `tracking_uri` its files lie in the run."""
    from lightning.pytorch.loggers import MLFlowLogger

    uri = tracking_uri or f"file:{run_dir.resolve() / 'mlruns'}"
    return MLFlowLogger(experiment_name=experiment, run_name=str(run_dir), tracking_uri=uri)


def check_loggers(nodes: DictConfig | None) -> None:
    """Raises where a logger needs a package that is not installed."""
    for name, node in (nodes or {}).items():
        if not node:
            continue
        package = SERVICES.get(str(node["_target_"]).removeprefix("ddiff.training.loggers."))
        if package and find_spec(package) is None:
            raise ConfigError(
                f"logger={name}: needs {package}, which is not installed: pip install {package}"
            )


def build_loggers(
    nodes: DictConfig | None, run_dir: Path, resume_step: int | None = None
) -> list[Logger]:
    """The loggers of a config. Each is given `run_dir` and `resume_step` where it asks for them."""
    offered = {"run_dir": run_dir, "resume_step": resume_step}
    return [build_asking("logger", node, offered) for node in (nodes or {}).values() if node]


def board_of(loggers: list[Logger]) -> TensorBoard | None:
    """TensorBoard, where it is one of them."""
    return next((logger for logger in loggers if isinstance(logger, TensorBoard)), None)


def log_figures(trainer: Trainer, figures: Mapping[str, float], step: int) -> None:
    """Scalars to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(figures), step)


def log_picture(trainer: Trainer, name: str, picture: np.ndarray, step: int) -> None:
    """A picture [H, W, 3] to every logger that shows pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
            logger.experiment.flush()
        elif log_image := getattr(logger, "log_image", None):  # of W&B and its like
            log_image(key=name, images=[picture], step=step)

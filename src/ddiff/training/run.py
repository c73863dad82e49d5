"""A run: one directory that holds everything about one training."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ddiff.build import build_backend, build_plan, build_precision, check_guidance
from ddiff.config.options import Train, typed
from ddiff.config.targets import build
from ddiff.config.trees import flat
from ddiff.profiling import Off, Subject, bytes_of
from ddiff.sampling.generation import Generation, in_training, labels_for, row_length
from ddiff.sampling.writing import sampled
from ddiff.system.console import console, show_table
from ddiff.system.devices import device_for
from ddiff.system.environment import environment
from ddiff.system.errors import ConfigError, DdiffError, nearest
from ddiff.system.files import lock, replacing, write_json
from ddiff.system.resources import PeakMemory
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.callbacks import (
    AdaptThreads,
    AtStart,
    Checkpoints,
    Dashboard,
    Evaluations,
    Progress,
    Resources,
    Resumed,
    Samples,
    StopOnNaN,
    Timesteps,
    ordered,
)
from ddiff.training.callbacks.evaluations import Found
from ddiff.training.callbacks.resources import in_words
from ddiff.training.callbacks.timesteps import Report
from ddiff.training.loggers import TensorBoard, board_of, build_loggers
from ddiff.training.modules import DDPM
from ddiff.training.modules.tenths import TENTHS
from ddiff.training.resume import ResumePoint

RANK_ZERO_DIR = "DDIFF_RANK_ZERO_DIR"


class Run:
    """One training. Builds and checks everything before it makes a directory, and writes the run's
    files once the checkpoint to resume from, if any, is restored: a start that fails leaves
    nothing behind. `cfg` is resolved and validated."""

    def __init__(self, cfg: DictConfig, point: ResumePoint | None) -> None:
        options = typed(Train, cfg)
        self.cfg, self.options, self.point = cfg, options, point
        check_guidance(options)
        self.started = time.perf_counter()
        if point and point.step >= options.budget.max_steps:
            raise ConfigError(
                f"{point.path} has reached step {point.step} already; "
                "to go on, give a larger budget.max_steps"
            )
        _check_metric(options)
        path = _directory(options, point)
        self.device = device_for(options.trainer.accelerator)
        self.peak = PeakMemory(self.device)
        self.data = build(options.data)
        self.data.prepare_data()
        self.data.setup("fit")
        fill_in_data_facts(options, self.data, begun=point is not None)
        self.precision = build_precision(options.precision, self.device)
        self.module = build_module(options, self.precision)
        if point:
            point.check_state(self.module.state_dict())
        if isinstance(self.module, DDPM):
            self.plan = build_plan(options.solver, self.module.schedule)
            self.y = labels_for(
                options.sampling.y, options.sampling.num_samples, options.net.num_classes
            )
            self.examine = self._examination() if options.evaluation.every else None
        self.path, self.made, self.begun, self.lock = path, False, False, None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, of several that train together."""
        return _rank() == 0

    def _claim(self) -> None:
        """Takes the run's directory for this process, or raises."""
        path = self.path
        if self.is_first:
            self.made = not path.exists()
            self.lock = lock(path, "the run")
            if self.point and self.point.in_place:
                self.point.refuse_if_changed()
            elif _holds_run(path):  # another process has begun and ended it meanwhile
                self.lock.release()
                raise ConfigError(_taken(path))
        os.environ[RANK_ZERO_DIR] = str(path)

    def _announce(self) -> None:
        backend = build_backend(self.options.backend, self.device).name
        parameters = sum(p.numel() for p in self.module.net.parameters())
        shape = "x".join(map(str, self.data.shape))
        console.print(
            f"{self.options.name}: {shape}, {parameters / 1e6:.2f} M parameters, "
            f"{self.precision.dtype} on {self.device.type} ({backend}), "
            f"to step {self.options.budget.max_steps}"
            f"\n{self.path}"
        )
        if self.point:
            if self.point.kept:
                console.print(f"as it was trained: {', '.join(self.point.kept)}")
            changes = self.point.changes(self.cfg)
            for name, (before, now) in changes.items():
                console.print(f"from step {self.point.step} on: {name}={now} (was {before})")
            if jump := _rate_jump(self.point, self.cfg):
                console.print(jump)

    def _begin(self) -> None:
        """Writes what the run is made with. Everything is restored and ready to train."""
        self.begun = True
        backend = build_backend(self.options.backend, self.device).name
        where = environment(self.device, self.precision.dtype)
        where |= {"backend": backend, "overrides": self._overrides()}
        file = self.path / "environment.json"
        if self.point and self.point.in_place:
            before = _read_json(file)
            earlier = before.pop("before", [])
            where |= {
                "from_step": self.point.step,
                "changed": {n: list(pair) for n, pair in self.point.changes(self.cfg).items()},
                "before": [*earlier, *([before] if before else [])],
            }
        elif self.point:
            where |= {"from_checkpoint": str(self.point.path), "from_step": self.point.step}
        with replacing(self.path / "config.yaml", "w") as config:
            config.write(OmegaConf.to_yaml(self.cfg))
        write_json(file, where)

    def fit(self) -> None:
        """Trains, from the resume point where there is one. A start that fails leaves nothing."""
        self._claim()
        try:
            if self.is_first:
                self._announce()
            self._fit()
        except BaseException:
            if self.made and not self.begun:
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def close(self) -> None:
        """Gives the run's directory back."""
        if self.lock:
            self.lock.release()

    def _fit(self) -> None:
        options = self.options
        nan = StopOnNaN()
        config = {
            "config": OmegaConf.to_container(self.cfg),
            "overrides": self._overrides(),
        }
        resume_step = self.point.step if self.point else None
        self.loggers = build_loggers(options.logger, self.path, resume_step)
        self.board = board_of(self.loggers)
        self.progress = Progress(options.data.batch_size, options.budget.log_every, self.started)
        self.resources = Resources(self.path, options.budget.log_every, self.progress)
        self.timesteps = Timesteps(self.path / "timesteps.png")
        self.evaluations: Evaluations | None = None
        saving = Checkpoints(self.path, config, options.budget.save_every, nan)
        callbacks = [nan, self.resources, self.progress, saving, Resumed(self.progress)]
        if self.is_first:
            callbacks.append(AtStart(self._begin))
        if isinstance(self.module, DDPM):
            callbacks.append(self.timesteps)
            columns = row_length(self.y)
            every = options.budget.sample_every
            callbacks.append(Samples(self.path / "samples", every, self.generate, columns))
            if self.examine and (every := options.evaluation.every):
                folder = self.path / "evaluations"
                self.evaluations = Evaluations(folder, every, self.examine, self.progress)
                callbacks.append(self.evaluations)
        if options.threads == "adapt" and self.device.type == "cpu":
            callbacks.append(AdaptThreads())
        if self.board:
            callbacks.append(Dashboard(self.board, options.budget.log_every))
        callbacks += [build(node) for node in (options.callbacks or {}).values()]
        profiler = build(options.profiler) if self.is_first else Off()
        with profiler.watching(self._subject()) as timeline:
            self.trainer = build_trainer(
                options, self.path, self.loggers, ordered(callbacks), self.precision, timeline
            )
            ckpt_path = str(self.point.path) if self.point else None
            self.trainer.fit(self.module, self.data, ckpt_path=ckpt_path, weights_only=True)

    def _overrides(self) -> list[str]:
        """What the command, and those of the run it resumes, changed of the recipe."""
        return list(self.point.overrides if self.point else HydraConfig.get().overrides.task)

    def _subject(self) -> Subject:
        """What a profile of the training is of, and where it goes."""

        def held() -> dict[str, int]:
            states = [s for o in self.trainer.optimizers for s in o.state.values()]
            return {
                "weights": bytes_of(self.module.net),
                "averaged weights": bytes_of(self.module.ema),
                "optimiser state": sum(
                    v.nbytes for state in states for v in state.values() if torch.is_tensor(v)
                ),
            }

        return Subject(
            "training",
            self.device,
            self.path / "profile",
            board=self._profile_board,
            held=held,
            first_step=self.point.step if self.point else 0,
        )

    def _profile_board(self) -> SummaryWriter:
        """TensorBoard, for a profile; where the run has none, beside the profile."""
        if self.board:
            return self.board.experiment
        return SummaryWriter(str(self.path / "profile" / "tensorboard"))

    def generation(self, module: DDPM) -> Generation:
        """How the averaged net makes the run's samples."""
        return in_training(module, self.options, self.plan)

    def generate(self, module: DDPM) -> np.ndarray:
        """The run's samples to look at, [N, C, *S]."""
        options = self.options.sampling
        batches = sampled(self.generation(module), options.num_samples, options.batch_size, self.y)
        return np.concatenate([batch.cpu().numpy() for batch in batches])

    def _examination(self) -> Callable[[DDPM], Found]:
        from ddiff.metrics.evaluation import Examination  # scipy and scikit-image take their time

        examination = Examination(self.options, self.data)
        return lambda module: examination(self.generation(module))

    def finish(self) -> float | None:
        """Writes metrics.json and the hyperparameters' page in TensorBoard, prints the closing
        table, and returns the figure that `optimized_metric` names (rank 0 only)."""
        if not self.trainer.is_global_zero:
            return None
        report, taken = self.timesteps.report, self.resources.summary
        measured = {"train/loss": float(self.module.latest["train/loss"])} | {
            name: float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        metrics = {
            **measured,
            "step": self.trainer.global_step,
            "samples_per_second": round(self.progress.samples_per_second, 3),
            "seconds": round(self.progress.wall(), 1),
            "peak_memory_mb": round(self.peak.mb()),
            "resources": {name: float(f"{value:.5g}") for name, value in taken.items()},
            **({"timesteps": report.summary()} if report else {}),
            "protocol": "val/* and val_loss: averaged weights, uniform timesteps, the same noise "
            "every time; train_loss: unweighted, between the last two reports; tenths: of t / T; "
            "seconds: wall clock of all processes of this run; peaks: the largest; speed and other "
            "resources: this process, waiting for data included, pauses for validation, samples "
            "and saves not; kept: figures of an earlier process, which this one did not measure, "
            "and the step it ended at; "
            f"peak_memory_mb: {self.peak.meaning}",
        }
        if self.point and self.point.in_place:
            _keep(metrics, _read_json(self.path / "metrics.json"))
        figure = self._optimized(metrics)
        write_json(self.path / "metrics.json", metrics)
        flat_options = flat(OmegaConf.to_container(self.cfg))
        numbers = {k: v for k, v in measured.items() if k.startswith("val/")}
        for logger in self.loggers:
            if isinstance(logger, TensorBoard):
                for summary in hparams(flat_options, numbers):
                    logger.experiment._get_file_writer().add_summary(summary)
            else:
                logger.log_hyperparams(flat_options)
            logger.finalize("success")
        _closing_table(self.path, metrics, report)
        return figure

    def _optimized(self, metrics: dict[str, Any]) -> float | None:
        """The figure for a sweeper, noted in `metrics`; None where nobody chose one and there was
        no validation."""
        name = self.options.optimized_metric or "val/loss"
        last = self.evaluations.last if self.evaluations else None
        quality = {f"quality/{f['name']}": f["value"] for f in last["figures"]} if last else {}
        known = {k: v for k, v in (metrics | quality).items() if isinstance(v, int | float)}
        if name not in known and self.options.optimized_metric is None:
            return None
        if name not in known:
            raise DdiffError(
                f"optimized_metric: this run has no {name!r}{nearest(name, sorted(known))}; "
                f"the run itself is complete: {self.path}"
            )
        metrics["optimized"] = {"name": name, "value": known[name]}
        return float(known[name])


def _directory(options: Train, point: ResumePoint | None) -> Path:
    """This run's directory: as given, the resumed run's own, or a new one by date and time."""
    if point and point.in_place:
        return point.run_dir
    if options.run_dir:
        path = Path(options.run_dir)
        if _rank() == 0 and _holds_run(path):
            raise ConfigError(_taken(path))
        return path
    if _rank() and RANK_ZERO_DIR in os.environ:
        return Path(os.environ[RANK_ZERO_DIR])  # Lightning starts the other ranks from rank 0
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().runtime.output_dir)
    _check_name(options)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    path = Path(options.runs) / options.name / stamp
    number = 2
    while path.exists():
        path, number = path.with_name(f"{stamp}_{number}"), number + 1
    return path


def _check_name(options: Train) -> None:
    """A run stays below `runs`."""
    parts = Path(options.name).parts
    if not parts or ".." in parts or Path(options.name).is_absolute() or not options.runs:
        raise ConfigError(
            f"name: {options.name!r} would not lie below runs={options.runs}; give a plain name, "
            "or the whole directory as run_dir="
        )


def _holds_run(path: Path) -> bool:
    return any((path / "checkpoints").glob("*.ckpt"))


def _taken(path: Path) -> str:
    return (
        f"run_dir: {path} already holds a run; resume it with ckpt_path={path} "
        "or give another directory"
    )


def _check_metric(options: Train) -> None:
    """What can be said before the training of the figure that a sweeper asks for."""
    name = options.optimized_metric
    if name and name.startswith("quality/") and not options.evaluation.every:
        raise ConfigError(
            f"optimized_metric: {name} is measured by evaluations; set evaluation.every= too"
        )


def _rate_jump(point: ResumePoint, cfg: DictConfig) -> str | None:
    """What a longer training does to the learning rate, where the rate jumps."""
    before, now = (_rate(c, point.step) for c in (point.trained, cfg))
    if math.isclose(before, now, rel_tol=0.02):
        return None
    text = f"learning rate {now:.3g} from step {point.step} on, {before:.3g} up to there"
    old = point.trained.lr_schedule.get("total_steps")
    if old and old != cfg.lr_schedule.get("total_steps"):
        text += (
            f": its curve now ends at step {cfg.lr_schedule.total_steps}, not {old}; "
            f"lr_schedule.total_steps={old} keeps the old curve and stays at its end"
        )
    return text


def _rate(cfg: DictConfig, step: int) -> float:
    """The learning rate that a config gives at a step."""
    optimizer = build(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    factor = build(cfg.lr_schedule)(optimizer).lr_lambdas[0](step)
    return optimizer.param_groups[0]["initial_lr"] * factor


def _read_json(path: Path) -> dict[str, Any]:
    """What stands in the file; {} where there is none or it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(metrics: dict[str, Any], before: dict[str, Any]) -> None:
    """Adds what only an earlier process of the run measured, and the larger peak."""
    own = ("kept", "optimized", "protocol")
    kept = {name: value for name, value in before.items() if name not in (*metrics, *own)}
    metrics |= kept
    steps = before.get("kept", {}) | {name: before.get("step") for name in kept}
    steps = {name: step for name, step in steps.items() if name in metrics and name not in own}
    if kept_now := {name: step for name, step in steps.items() if name in kept}:
        metrics["kept"] = kept_now
    if isinstance(peak := before.get("peak_memory_mb"), int | float):
        metrics["peak_memory_mb"] = max(metrics["peak_memory_mb"], peak)


def _rank() -> int:
    """This process's rank; Lightning sets it before it starts the others."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def _closing_table(path: Path, metrics: dict[str, Any], report: Report | None) -> None:
    apart = ("protocol", "resources", "timesteps", "kept", "optimized")
    rows = [
        (name, f"{value:.5g}" if isinstance(value, float) else str(value))
        for name, value in metrics.items()
        if name not in apart
    ]
    show_table((), rows, str(path), left=(0, 1))
    console.print()
    for line in in_words(metrics["resources"]):
        console.print(line)
    if report:
        _timesteps_table(report)
    if pictures := sorted((path / "samples").glob("*.png")):
        console.print(f"samples     {pictures[-1]}")
        console.print(f"more        python -m ddiff.sample run={path} num_samples=64")
    if (path / "tensorboard").is_dir():
        console.print(f"dashboard   tensorboard --logdir {path / 'tensorboard'}")


def _timesteps_table(report: Report) -> None:
    console.print(f"timesteps   {report.title()}")
    columns = {
        "of t / T": TENTHS,
        "p": report.p,
        "score": report.score,
        "train loss": report.train_loss,
        "val loss": report.val_loss,
    }
    header, values = zip(*((n, v) for n, v in columns.items() if v is not None), strict=True)
    show_table(header, [list(map(_cell, row)) for row in zip(*values, strict=True)])


def _cell(value: str | float | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.2g}"

"""A run: one directory that holds everything about one training."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter

from ddiff.build import build_backend, build_plan, build_precision, check_guidance
from ddiff.config.options import Train, tree_of
from ddiff.config.resuming import ResumePoint
from ddiff.config.sweeps import name_of
from ddiff.config.targets import build
from ddiff.data.loading import ValBatches
from ddiff.nets.conditions import Layout
from ddiff.profiling import Off, Profiled, bytes_of
from ddiff.sampling.conditions import conditions_for, row_length
from ddiff.sampling.generation import Generation, check_shortcuts, in_training
from ddiff.sampling.writing import sampled
from ddiff.system.console import console
from ddiff.system.devices import device_for
from ddiff.system.environment import environment
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import lock, read_json, replacing, write_json
from ddiff.system.resources import PeakMemory
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.callbacks import (
    AdaptThreads,
    AtStart,
    Checkpoints,
    Progress,
    Resumed,
    StopOnNaN,
    build_callbacks,
    ordered,
)
from ddiff.training.callbacks.samples import Found
from ddiff.training.loggers import board_of, build_loggers
from ddiff.training.modules import DDPM, Autoencoder
from ddiff.training.ranks import FromFirst, check_launch, lost, rank
from ddiff.training.starting import Start, brought, start_from
from ddiff.training.summary import summarise

PAIRED = 8  # columns of a picture of data and their reconstructions: pairs lie in one row


class Run:
    """One training. Builds and checks everything before it makes a directory, and writes the run's
    files once the checkpoint to resume from, if any, is restored: a start that fails leaves
    nothing behind.

    `overrides` are the options of the command line that made it, and `job_folder` is the directory
    of a job of a sweep.
    """

    def __init__(
        self,
        options: Train,
        overrides: Sequence[str] = (),
        point: ResumePoint | None = None,
        job_folder: Path | None = None,
    ) -> None:
        self.options, self.overrides, self.point = options, list(overrides), point
        check_guidance(options)
        self.started = time.perf_counter()
        if point and point.step >= options.budget.max_steps:
            raise ConfigError(
                f"{point.path} has reached step {point.step} already; "
                "to go on, give a larger budget.max_steps"
            )
        _check_metric(options)
        check_launch(options.trainer)
        first = FromFirst()
        path = Path(first.ask(lambda: str(_directory(options, point, job_folder))))
        self.device = device_for(options.trainer.accelerator)
        self.peak = PeakMemory(self.device)
        self.data = build(options.data)
        first.ask(lambda: str(self.data.prepare_data()))  # a download is made once
        if not self.is_first:
            self.data.prepare_data()
        self.data.setup("fit")
        self.decoder = self.data.decoder and self.data.decoder.to(self.device)
        kept = point.trained.net.get("conditions") if point else None
        fill_in_data_facts(options, self.data, begun=point is not None, kept=kept)
        self.tree = tree_of(options)
        self.precision = build_precision(options.precision, self.device)
        self.module = build_module(options, self.precision)
        self.start: Start | None = None
        if point:
            point.check_state(self.module.state_dict())
        elif options.init:
            said = [name_of(word) for word in self.overrides]
            self.start = start_from(options, self.module.net, brought(said))
            self.module.ema.load_state_dict(self.module.net.state_dict())
        self.y, self.examine = None, None
        if isinstance(self.module, DDPM):
            self.plan = build_plan(options.solver, self.module.schedule)
            check_shortcuts(self.plan, options)
            if self.module.shortcuts:
                if self.decoder:
                    bound = self.decoder.bound
                    self.module.shortcuts = replace(self.module.shortcuts, clamp=bound)
                self.module.shortcuts.number(self.data.batch_size)  # refuses a batch of one
            self.y = conditions_for(
                options.sampling.y,
                options.sampling.num_samples,
                Layout.of_net(options.net),
                self.data.examples,
            )
            self.examine = self._examination() if options.evaluation.every else None
        self.path, self.made, self.begun, self.lock = path, False, False, None

    @property
    def is_first(self) -> bool:
        """True if this process is the one that writes, of several that train together."""
        return rank() == 0

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

    def finish(self) -> float | None:
        """Writes metrics.json and the loggers' last figures, prints the closing table, and returns
        the figure that `optimized_metric` names (rank 0 only)."""
        if not self.trainer.is_global_zero:
            return None
        figure, step = summarise(self), self.trainer.global_step
        if step == self.options.budget.pause_at != self.options.budget.max_steps:
            console.print(f"paused after step {step}; ckpt_path={self.path} continues")
        return figure

    def close(self) -> None:
        """Gives the run's directory back."""
        if self.lock:
            self.lock.release()

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
        if self.start:
            console.print(str(self.start))
        if self.point:
            if self.point.kept:
                console.print(f"as it was trained: {', '.join(self.point.kept)}")
            for name, (before, now) in self.point.changes(self.tree).items():
                console.print(f"from step {self.point.step} on: {name}={now} (was {before})")
            if jump := _rate_jump(self.point, self.options):
                console.print(jump)

    def _begin(self) -> None:
        """Writes what the run is made with. Everything is restored and ready to train."""
        self.begun = True
        backend = build_backend(self.options.backend, self.device).name
        where = environment(self.device, self.precision.dtype)
        ranks = self.trainer.world_size
        where |= {"backend": backend, "ranks": ranks, "overrides": self.overrides}
        file = self.path / "environment.json"
        if self.point and self.point.in_place:
            before = read_json(file)
            earlier = before.pop("before", [])
            where |= {
                "from_step": self.point.step,
                "changed": {n: list(pair) for n, pair in self.point.changes(self.tree).items()},
                "before": [*earlier, *([before] if before else [])],
            }
        elif self.start:
            where |= {"init": self.start.facts()}
        elif self.point:
            where |= {"from_checkpoint": str(self.point.path), "from_step": self.point.step}
        with replacing(self.path / "config.yaml", "w") as config:
            config.write(OmegaConf.to_yaml(DictConfig(self.tree)))
        write_json(file, where)

    def _fit(self) -> None:
        options = self.options
        resume_step = self.point.step if self.point else None
        self.loggers = build_loggers(options.logger, self.path, resume_step)
        self.board = board_of(self.loggers)
        self.progress = Progress(options.data.batch_size, options.budget.log_every, self.started)
        profiler = build(options.profiler) if self.is_first else Off()
        limit = options.trainer.limit_val_batches
        if isinstance(limit, float) and limit > 0:  # a share of what all ranks have, not of each
            options.trainer.limit_val_batches = int(self.data.num_val_batches * limit) or limit
        with profiler.watching(self._subject()) as timeline:
            self.trainer = build_trainer(
                options, self.path, self.loggers, self._callbacks(), self.precision, timeline
            )
            if self.point and self.is_first:
                for line in _step_changes(self.point, options, self.trainer.world_size):
                    console.print(line)
            ckpt_path = str(self.point.path) if self.point else None
            try:
                self.trainer.fit(self.module, self.data, ckpt_path=ckpt_path, weights_only=True)
            except RuntimeError as error:
                if self.trainer.world_size == 1 or not lost(error):
                    raise
                raise DdiffError(
                    f"rank {self.trainer.global_rank} ends, for it lost another rank, which may "
                    f"have said why; resume with ckpt_path={self.path}"
                ) from error

    def _callbacks(self) -> list[Callback]:
        """Callbacks: first those that exact resuming needs, then the named ones of the config.

        The latter are the run's own (conf/callbacks/run.yaml) and the user's.
        """
        options, nan = self.options, StopOnNaN()
        config = {"config": self.tree, "overrides": self.overrides, "data": self.data.facts()}
        callbacks = [nan, self.progress, Resumed(self.progress)]
        callbacks.append(Checkpoints(self.path, config, options.budget.save_every, nan))
        if self.is_first:
            callbacks.append(AtStart(self._begin))
        if options.threads == "adapt" and self.device.type == "cpu":
            callbacks.append(AdaptThreads())
        offered = {
            "run_dir": self.path,
            "progress": self.progress,
            "generate": self.pictured(),
            "columns": PAIRED if isinstance(self.module, Autoencoder) else row_length(self.y),
            "examine": self.examine,
        }
        generative = isinstance(self.module, DDPM)
        return ordered([*callbacks, *build_callbacks(options.callbacks, offered, generative)])

    def _subject(self) -> Profiled:
        """Describe the training for a profile, and where the profile goes."""

        def held() -> dict[str, int]:
            states = [s for o in self.trainer.optimizers for s in o.state.values()]
            return {
                "weights": bytes_of(self.module.net),
                "averaged weights": bytes_of(self.module.ema),
                "optimiser state": sum(
                    v.nbytes for state in states for v in state.values() if torch.is_tensor(v)
                ),
            }

        return Profiled(
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
        """Generation of the run's samples with the averaged net."""
        return in_training(module, self.options, self.plan, self.decoder)

    def pictured(self) -> Callable[[Any], np.ndarray] | None:
        """Return what makes the pictures of a training; None for a classifier."""
        if isinstance(self.module, DDPM):
            return self.generate
        return self.reconstructions if isinstance(self.module, Autoencoder) else None

    def reconstructions(self, module: Autoencoder) -> np.ndarray:
        """The first samples of the validation set, each followed by its reconstruction."""
        number = max(1, self.options.sampling.num_samples // 2)
        x, _ = ValBatches(self.data.val, number)[0]
        with torch.no_grad():
            made = module.reconstructed(x.to(self.device)).cpu()
        return torch.stack([x, made], 1).flatten(0, 1).numpy()

    def generate(self, module: DDPM) -> np.ndarray:
        """The run's samples to look at, [N, C, *S]."""
        options = self.options.sampling
        batches = sampled(self.generation(module), options.num_samples, options.batch_size, self.y)
        return np.concatenate([batch.cpu().numpy() for batch in batches])

    def _examination(self) -> Callable[[DDPM], Found]:
        from ddiff.metrics.evaluation import Examination  # scipy and scikit-image take their time

        examination = Examination(self.options, self.data)
        return lambda module: examination(self.generation(module))


def _directory(options: Train, point: ResumePoint | None, job_folder: Path | None) -> Path:
    """This run's directory: as given, the resumed run's own, or a new one by date and time."""
    if point and point.in_place:
        return point.run_dir
    if options.run_dir:
        path = Path(options.run_dir)
        if _holds_run(path):
            raise ConfigError(_taken(path))
        return path
    if job_folder:
        return job_folder
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
    """Raise ConfigError before the training if the figure for a sweeper would not be measured."""
    name = options.optimized_metric
    if name and name.startswith("quality/") and not options.evaluation.every:
        raise ConfigError(
            f"optimized_metric: {name} is measured by evaluations; set evaluation.every= too"
        )


def _rate_jump(point: ResumePoint, options: Train) -> str | None:
    """Describe the learning rate's jump when a longer training resumes; None without one."""
    then, now = point.trained.lr_schedule, options.lr_schedule
    rate = _rate(point.trained.optimizer, then, point.step)
    after = _rate(options.optimizer, now, point.step)
    if math.isclose(rate, after, rel_tol=0.02):
        return None
    text = f"learning rate {after:.3g} from step {point.step} on, {rate:.3g} up to there"
    old = then.get("total_steps")
    if old and old != now.get("total_steps"):
        text += (
            f": its curve now ends at step {now.total_steps}, not {old}; "
            f"lr_schedule.total_steps={old} keeps the old curve and stays at its end"
        )
    return text


def _rate(optimizer: DictConfig, lr_schedule: DictConfig, step: int) -> float:
    """The learning rate that these choices give at a step."""
    weight = torch.nn.Parameter(torch.zeros(1, 1, 1))  # of a convolution: every optimiser takes it
    built = build(optimizer)([weight])
    factor = build(lr_schedule)(built).lr_lambdas[0](step)
    return built.param_groups[0]["initial_lr"] * factor


def _step_changes(point: ResumePoint, options: Train, ranks: int) -> Iterator[str]:
    """Describe what changes in the samples of a step when a run continues."""
    then, step = point.trained, point.step
    before = (point.ranks, then.trainer.accumulate_grad_batches, then.data.batch_size)
    now = (ranks, options.trainer.accumulate_grad_batches, options.data.batch_size)
    if point.ranks > 1 and not point.one_stream:
        yield (
            f"the run had {point.ranks} ranks of an older ddiff, which dealt out batches and noise "
            "otherwise: it continues, but not with the same batches"
        )
    if now == before:
        return
    if math.prod(now) != math.prod(before):
        effect = f"a step has {math.prod(now)} samples (was {math.prod(before)})"
    elif now[2] == before[2]:
        effect = "the same samples and noise a step, sums in another order"
    else:
        effect = "as many samples a step, in other batches"
    yield f"from step {step} on: {_in_words(*now)} (was {_in_words(*before)}): {effect}"


def _in_words(ranks: int, accumulate: int, size: int) -> str:
    """`2 ranks x 1 batch of 8`."""
    return (
        f"{ranks} {'rank' if ranks == 1 else 'ranks'} x "
        f"{accumulate} {'batch' if accumulate == 1 else 'batches'} of {size}"
    )

"""Continuing from a checkpoint: its own config, plus what the command line says now."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from ddiff.config.sweeps import job_folder, job_number, name_of, overrides_of_command
from ddiff.config.trees import config_of, flat, is_as_before, resolved, stored
from ddiff.system.console import console
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

# What does not change the training, and what the data fill in. A checkpoint's config may differ
# here from what its own options give today, without a word.
FREE = ("_", "budget", "trainer", "sampling", "evaluation", "metrics", "extractor", "solver",
        "guidance", "backend", "runs", "run_dir", "ckpt_path", "init", "memory_budget_gb",
        "profiler", "logger", "callbacks", "threads", "optimized_metric", "sweep", "net.shape",
        "net.num_classes", "net.conditions")  # fmt: skip
PLACES = ("ckpt_path", "run_dir", "runs")  # where a run was made is not where it is now
# What does not make two trainings different: where they lie, and how they are looked at.
ASIDE = ("_", *PLACES, "threads", "sweep", "optimized_metric", "memory_budget_gb", "profiler",
         "logger", "callbacks", "sampling", "evaluation", "metrics", "extractor", "net.shape",
         "net.num_classes", "net.conditions", "budget.val_every", "budget.sample_every",
         "budget.log_every", "budget.save_every", "budget.pause_at",
         "data.num_workers")  # fmt: skip
# What a run may change on its way, in its own directory: how it goes on, not what its past was.
GOING_ON = ("name", "optimizer", "lr_schedule", "precision", "module.ema_decay",
            "net.checkpoint_levels", "data.batch_size", "data.num_workers", "data.root",
            "data.download", "data.cache_gb", "data.run", "data.cache", "data.of.batch_size",
            "data.of.num_workers", "data.of.root", "data.of.download",
            "data.of.cache_gb")  # fmt: skip
ELSEWHERE = (*PLACES, "data.root", "data.run", "data.cache", "data.of.root", "evaluation.cache",
             "extractor", "net.shape", "net.num_classes", "net.conditions")  # fmt: skip

Changes = dict[str, tuple[Any, Any]]  # option -> (before, now)


def continued(cfg: DictConfig) -> tuple[DictConfig, "ResumePoint | None"]:
    """The config to train with, resolved but not validated, and the point to resume from if any.

    With `ckpt_path`, and for a job of a sweep that was begun before, that is the config of the run
    on the disk, under this command's options.
    """
    for name in ("ckpt_path", "run_dir"):
        if cfg[name] == "":
            raise ConfigError(
                f"{name}: is empty (an unset shell variable?); leave it out, or give a path"
            )
    if cfg.ckpt_path and cfg.init:
        raise ConfigError("init: starts a new training, and ckpt_path continues one; leave one out")
    source = cfg.ckpt_path or begun_job(cfg)
    point = ResumePoint.at(str(source), cfg.run_dir) if source else None
    return resolved(point.cfg if point else cfg), point


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to resume from, and the config to resume with."""

    path: Path
    step: int
    cfg: DictConfig  # composed anew, not resolved
    overrides: list[str]
    run_dir: Path  # to write in
    in_place: bool  # whether that is the checkpoint's own run
    trained: DictConfig  # the config of the past
    kept: list[str]  # options of it that the same command line would set otherwise today
    shapes: dict[str, tuple[int, ...]]  # of the state dict
    written: int  # when the file was, in ns
    threads: int | None  # that computed it; None: not known, of an older ddiff
    ranks: int  # that trained it
    one_stream: bool  # whether they took batches of one stream in turn; older versions did not

    @classmethod
    def at(cls, source: str, run_dir: str | None) -> "ResumePoint":
        """The run's own overrides come first, then this command's."""
        from ddiff.system.checkpoints import find_checkpoint, load_checkpoint, ranks_of

        path = find_checkpoint(source)
        written = path.stat().st_mtime_ns
        checkpoint = load_checkpoint(path)
        own, in_place = _place(path, run_dir)
        facts = checkpoint["ddiff"]
        now = [o for o in overrides_of_command() if name_of(o) != "ckpt_path"]
        then = [o for o in facts["overrides"] if name_of(o) not in PLACES]
        names = {name_of(o) for o in now}
        overrides = [o for o in then if name_of(o) not in names] + now
        step = checkpoint["global_step"]
        if in_place:
            _refuse_the_past(path, step)
        trained = config_of(checkpoint)
        cfg = compose("train", overrides)
        said = tuple(name_of(o).split("/")[0] for o in now)
        moved = [o for o in now if name_of(o).startswith(ELSEWHERE)]
        before = _as_trained([*then, *moved], trained)
        kept = {k: v for k, v in before.items() if not k.startswith(said)}
        for name, value in kept.items():
            now_said = {s: OmegaConf.select(cfg, s) for s in said if s.startswith(f"{name}.")}
            for option, choice in ({name: value} | now_said).items():
                OmegaConf.update(cfg, option, choice, merge=False)
        shapes = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        return cls(
            path=path,
            step=step,
            cfg=cfg,
            overrides=overrides,
            run_dir=own,
            in_place=in_place,
            trained=trained,
            kept=[f"{name}={value}" for name, value in kept.items()],
            shapes=shapes,
            written=written,
            threads=facts.get("threads"),
            ranks=ranks_of(checkpoint),
            one_stream="ranks" in facts,
        )

    def check(self, now: Mapping) -> None:
        """Raise where the options, as a tree, do not fit what was trained."""
        changes = self.changes(now)
        if "optimizer._target_" in changes:
            before, now = (t.rpartition(".")[2] for t in changes["optimizer._target_"])
            raise ConfigError(
                f"optimizer: the checkpoint's moments are {before}'s and mean nothing to {now}; "
                "keep the optimiser, or start a new run"
            )
        if not self.in_place:
            return
        other = [name for name in changes if not name.startswith(GOING_ON)]
        if other:
            said = ", ".join(f"{n} ({changes[n][0]} -> {changes[n][1]})" for n in other[:4])
            more = f" and {len(other) - 4} more" if len(other) > 4 else ""
            raise ConfigError(
                f"{self.run_dir} was trained with other options: {said}{more}; they would change "
                "what its past means. A fork may: add run_dir=NEW"
            )

    def unchanged(self, now: Mapping) -> set[str]:
        """The options that are as they were trained, of those that a run cannot change at will."""
        before, other = flat(self.trained), self.changes(now)
        return {name for name in before if name not in other and not name.startswith(FREE)}

    def changes(self, now: Mapping) -> Changes:
        """The options that are other than before, of those that matter."""
        before, after = flat(self.trained), flat(now)
        return {
            name: (before[name], after.get(name))
            for name in sorted(before)
            if before[name] != after.get(name) and not name.startswith(FREE)
        }

    def check_state(self, state: "Mapping[str, Tensor]") -> None:
        """Raise where the module's state dict is of other names or shapes than the checkpoint's."""
        now = {name: tuple(value.shape) for name, value in state.items()}
        if now == self.shapes:
            return
        wrong = sorted(n for n in now.keys() | self.shapes if now.get(n) != self.shapes.get(n))
        before, after = self.shapes.get(wrong[0]), now.get(wrong[0])
        said = f"{wrong[0]} is {_words(before)} in the checkpoint and {_words(after)} now"
        more = f", and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise ConfigError(f"{self.path} does not fit these options: {said}{more}")

    def refuse_if_changed(self) -> None:
        """Raise where another process has gone on with the run since the checkpoint was read."""
        if self.path.stat().st_mtime_ns != self.written:
            raise DdiffError(f"{self.path} was written by another process just now; try again")


def begun_job(cfg: DictConfig) -> Path | None:
    """The directory of this job of a sweep, where an earlier start of the sweep left a run of the
    same options. Raises where it holds another run."""
    path = job_folder()
    if path is None or cfg.run_dir or not (last := path / "checkpoints/last.ckpt").is_file():
        return None
    from ddiff.system.checkpoints import load_checkpoint

    before = [o for o in load_checkpoint(last)["ddiff"]["overrides"] if name_of(o) not in PLACES]
    now = [o for o in overrides_of_command() if name_of(o) not in PLACES]
    if sorted(before) != sorted(now):
        raise ConfigError(
            f"{path} holds a run of other options ({' '.join(before)}); "
            "give the sweep a directory of its own: hydra.sweep.dir=..."
        )
    return path


def _words(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a number"


def _place(path: Path, run_dir: str | None) -> tuple[Path, bool]:
    """The directory to write in, and whether it is the checkpoint's own run."""
    own = path.parent.parent if path.parent.name == "checkpoints" else None
    if run_dir:
        return Path(run_dir), own is not None and Path(run_dir).resolve() == own.resolve()
    if own is None:
        raise ConfigError(f"ckpt_path: {path} does not lie in a run; add run_dir=NEW")
    return own, True


def _refuse_the_past(path: Path, step: int) -> None:
    """An older checkpoint would replace the newer one of its run."""
    last = path.with_name("last.ckpt")
    if path.name == last.name or not last.is_file():
        return
    from ddiff.system.checkpoints import load_checkpoint

    newest = load_checkpoint(last)["global_step"]
    if newest > step:
        raise ConfigError(
            f"{path} stands at step {step} and its run has gone on to step {newest}, which would "
            "be lost; add run_dir=NEW to go on from here, or resume the run's last.ckpt"
        )


def _as_trained(then: list[str], trained: DictConfig) -> dict[str, Any]:
    """Options of the run that its own command line would set otherwise today (another default,
    another recipe), and what they were."""
    cfg, before = compose("train", then), flat(trained)
    kept: dict[str, Any] = {}
    now = flat(resolved(cfg))
    # budget first: other options refer to it
    for name in sorted(before, key=lambda name: (not name.startswith("budget"), name)):
        if name not in now or before[name] == now[name] or name.startswith(ELSEWHERE):
            continue
        group = name.partition(".")[0]
        target = f"{group}._target_"
        whole = before.get(target) != now.get(target)  # another choice of the group
        name = group if whole else name
        kept[name] = OmegaConf.select(trained, name)
        OmegaConf.update(cfg, name, kept[name], merge=False)
        now = flat(resolved(cfg))
    return kept


def finished(cfg: DictConfig) -> float | None:
    """The figure of this job of a sweep, where an earlier start of the sweep has finished it."""
    path = begun_job(cfg)
    if path is None and cfg.sweep.skip_finished and job_folder() is not None:
        path = finished_twin(resolved(cfg))
    if path is None:
        return None
    from ddiff.system.checkpoints import load_checkpoint

    metrics = read_json(path / "metrics.json")
    if metrics.get("step") != load_checkpoint(path / "checkpoints/last.ckpt")["global_step"]:
        return None
    console.print(f"job {job_number()} is finished already: {path}")
    wanted = cfg.optimized_metric or "val/loss"
    noted = metrics.get("optimized", {})
    figure = noted.get("value") if noted.get("name") == wanted else metrics.get(wanted)
    return float(figure) if isinstance(figure, int | float) else float("nan")


def finished_twin(cfg: DictConfig) -> Path | None:
    """The newest finished run below `runs` that was trained with the same options; None without."""
    wanted = _training_of(cfg)
    steps = cfg.budget.max_steps
    files = sorted(Path(cfg.runs).rglob("metrics.json"), key=lambda file: -file.stat().st_mtime)
    for file in files:
        try:
            same = _training_of(stored(file.with_name("config.yaml"))) == wanted
        except (DdiffError, OSError, ValueError, YAMLError):  # of another program, or broken
            continue
        if same and read_json(file).get("step") == steps:
            return file.parent
    return None


def _training_of(cfg: Mapping) -> dict[str, Any]:
    """The options that decide a training, flat, without those of `ADDED` that say what was."""
    options = flat(cfg)
    return {
        name: value
        for name, value in options.items()
        if not name.startswith(ASIDE) and not is_as_before(name, value, options)
    }

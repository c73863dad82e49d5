"""Going on from a checkpoint: its own config, plus what the command line says now."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ddiff.checkpoints import find_checkpoint, load_checkpoint
from ddiff.config import flat, resolved, validate
from ddiff.errors import ConfigError

# where the checkpoint's config may rightly differ from what its own options give today: what does
# not change the training, and what the data fill in
FREE = ("budget", "trainer", "sampling", "evaluation", "metrics", "extractor", "solver", "guidance",
        "backend", "runs", "run_dir", "ckpt_path", "memory_budget_gb", "profiler",
        "net.shape", "net.num_classes")  # fmt: skip


def checked(cfg: DictConfig) -> tuple[DictConfig, "ResumePoint | None"]:
    """The config to train with, resolved and validated, and the point to resume from if any.

    With `ckpt_path` that is the config of the run it names, under this command's overrides.
    """
    point = ResumePoint.of(cfg)
    cfg = resolved(point.cfg if point else cfg)
    validate(cfg)
    return cfg, point


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to resume from, and the config to resume with."""

    path: Path
    step: int
    cfg: DictConfig  # composed anew, not resolved
    overrides: list[str]

    @classmethod
    def of(cls, cfg: DictConfig) -> "ResumePoint | None":
        """None without `ckpt_path`. The run's own overrides come first, then this command's."""
        if not cfg.ckpt_path:
            return None
        path = find_checkpoint(cfg.ckpt_path)
        checkpoint = load_checkpoint(path)
        now = [o for o in HydraConfig.get().overrides.task if _name(o) != "ckpt_path"]
        places = ("ckpt_path", "run_dir", "runs")  # where it was made is not where it is now
        then = [o for o in checkpoint["ddiff"]["overrides"] if _name(o) not in places]
        _refuse_drift(path, checkpoint["ddiff"]["config"], then, now)
        names = {_name(o) for o in now}
        overrides = [o for o in then if _name(o) not in names] + now
        return cls(path, checkpoint["global_step"], compose("train", overrides), overrides)

    @property
    def run_dir(self) -> Path:
        return self.path.parent.parent


def _name(override: str) -> str:
    """`+net.channels=[8]` -> `net.channels`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _refuse_drift(path: Path, trained: dict[str, Any], then: list[str], now: list[str]) -> None:
    """The same options must still mean the same config, where this command does not say else."""
    before, today = flat(trained), flat(resolved(compose("train", then)))
    said = tuple(_name(o).split("/")[0] for o in now)
    for name in sorted(before.keys() | today.keys()):
        if before.get(name) != today.get(name) and not name.startswith(FREE + said):
            raise ConfigError(
                f"{path} was trained with {name}={before.get(name)} and the same options now give "
                f"{today.get(name)}; say {name}=... to choose"
            )

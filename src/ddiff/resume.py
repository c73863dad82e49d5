"""Going on from a checkpoint: its own config, plus what the command line says now."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ddiff.checkpoints import find_checkpoint, load_checkpoint
from ddiff.errors import ConfigError

# these may change from one leg of a training to the next without making it another training
FREE = ("budget", "trainer", "sampling", "solver", "guidance", "backend", "runs", "run_dir",
        "ckpt_path")  # fmt: skip


@dataclass(frozen=True)
class Resume:
    """A point to resume from, and the config to resume with."""

    path: Path
    step: int
    cfg: DictConfig  # composed anew, not resolved
    overrides: list[str]
    now: list[str]  # this command line's
    trained_with: dict[str, Any]

    @classmethod
    def of(cls, cfg: DictConfig) -> "Resume | None":
        """None without `ckpt_path`. The run's own overrides come first, then this command's."""
        if not cfg.ckpt_path:
            return None
        path = find_checkpoint(cfg.ckpt_path)
        checkpoint = load_checkpoint(path)
        now = list(HydraConfig.get().overrides.task)
        names = {o.split("=")[0] for o in now}
        before = [o for o in checkpoint["ddiff"]["overrides"] if o.split("=")[0] not in names]
        overrides = [o for o in before if not o.startswith("ckpt_path=")]
        overrides += [o for o in now if not o.startswith("ckpt_path=")]
        return cls(
            path=path,
            step=checkpoint["global_step"],
            cfg=compose("train", overrides),
            overrides=overrides,
            now=now,
            trained_with=checkpoint["ddiff"]["config"],
        )

    @property
    def run_dir(self) -> Path:
        return self.path.parent.parent

    def check(self, cfg: DictConfig) -> None:
        """Refuses a config that differs from the checkpoint's in a way nobody asked for."""
        from ddiff.run import flat

        now, then = flat(OmegaConf.to_container(cfg)), flat(self.trained_with)
        asked = tuple(o.lstrip("+~").split("=")[0].split("@")[0].split("/")[0] for o in self.now)
        for name in sorted(now.keys() | then.keys()):
            if now.get(name) == then.get(name) or name.split(".")[0] in FREE:
                continue
            if not name.startswith(asked):
                raise ConfigError(
                    f"{self.path} was trained with {name}={then.get(name)} and the config now says "
                    f"{now.get(name)}; say {name}=... to change it knowingly"
                )

"""A trained net, out of a run or a checkpoint, ready to sample from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ddiff.build import build, build_net, build_precision
from ddiff.checkpoints import config_of, find_checkpoint, load_checkpoint
from ddiff.config import resolved, validate
from ddiff.devices import device_for
from ddiff.diffusion import Objective, Schedule
from ddiff.errors import ConfigError, DdiffError
from ddiff.sampling import Generation


@dataclass(frozen=True, eq=False)
class Trained:
    """The net on its device, and what its predictions mean."""

    net: nn.Module
    schedule: Schedule
    objective: Objective
    cfg: DictConfig  # the run's
    run_dir: Path
    step: int

    @classmethod
    def load(cls, source: str, weights: str = "ema", accelerator: str = "auto") -> "Trained":
        """Reads tensors and plain values only; the config in the file is validated like any."""
        if weights not in ("ema", "net"):
            raise ConfigError(f"weights: {weights!r} is not one of ema (averaged), net (raw)")
        path = find_checkpoint(source)
        checkpoint = load_checkpoint(path)
        cfg = resolved(config_of(checkpoint))
        validate(cfg)
        net = build_net(cfg)
        prefix = f"{weights}."
        state = checkpoint["state_dict"]
        own = {name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)}
        try:
            net.load_state_dict(own)
        except RuntimeError as error:
            raise DdiffError(f"{path} does not fit its own config: {_first(error)}") from error
        device = device_for(accelerator)
        net = net.to(device).requires_grad_(False).eval()
        run_dir = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        return cls(
            net, build(cfg.schedule), build(cfg.objective), cfg, run_dir, checkpoint["global_step"]
        )

    def generation(self, cfg: DictConfig) -> Generation:
        """How to sample: `cfg` holds solver, guidance, precision, backend, seed and clamp."""
        device = next(self.net.parameters()).device
        backend: Any = build(cfg.backend)
        backend.prepare(self.net)
        return Generation(
            net=self.net,
            shape=tuple(self.cfg.net.shape),
            num_classes=self.cfg.net.num_classes,
            objective=self.objective,
            plan=build(cfg.solver)(self.schedule),
            guidance=build(cfg.guidance),
            precision=build_precision(cfg, device),
            seed=cfg.seed,
            clamp=cfg.clamp,
        )


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2])

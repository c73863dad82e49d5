"""What is measured: the net of a run, or one with fresh weights of a recipe."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.trained import Trained
from ddiff.build import build, build_guidance, build_net, check_guidance, is_generative
from ddiff.config.options import Benchmark, own_options
from ddiff.config.trees import resolved
from ddiff.config.validation import validate
from ddiff.system.checkpoints import short_digest
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError
from ddiff.system.random import generator, key
from ddiff.training.building import fill_in_data_facts
from ddiff.training.rehearsal import rehearse

OWN = (*own_options(Benchmark), "seed", "solver", "guidance")
WOKEN = 0.02  # standard deviation of parameters that a recipe starts at 0


@dataclass(frozen=True, eq=False)
class Subject:
    """`cfg` is the run's or the recipe's, with the benchmark's seed, solver and guidance."""

    trained: Trained
    cfg: DictConfig
    weights: str  # ema or net
    fresh: bool = False

    @classmethod
    def of(cls, cfg: DictConfig, given: Collection[str]) -> "Subject":
        """`given` holds the options named on the command line."""
        return _from_run(cfg, given) if cfg.run else _from_recipe(cfg)

    @property
    def exported(self) -> bool:
        """Whether the net is an artifact, which runs in one way only."""
        return isinstance(self.trained.net, ArtifactNet)

    def __str__(self) -> str:
        trained = self.trained
        shape = "x".join(map(str, trained.cfg.net.shape))
        count = sum(p.numel() for p in trained.net.parameters())
        size = "exported" if self.exported else f"{count / 1e6:.2f} M parameters"
        state = "untrained" if self.fresh else f"at step {trained.step}"
        return f"{trained.cfg.name}, {shape}, {size}, {state}"


def _from_run(cfg: DictConfig, given: Collection[str]) -> Subject:
    strange = sorted({name for name in given if name not in OWN})
    if strange:
        options = ", ".join(f"{name}=" for name in strange)
        raise ConfigError(f"run: a run is measured as it was trained; leave out {options}")
    trained = Trained.load(cfg.run, cfg.weights, cfg.accelerator)
    own = trained.cfg.copy()
    own.seed = cfg.seed
    for group in ("solver", "guidance"):
        if group in given:
            own[group] = OmegaConf.to_container(cfg[group], resolve=True)
    validate(own, bounds=False)
    if cfg.mode == "sample":
        build_guidance(own.guidance).check(own.net.num_classes)
    return Subject(trained, own, cfg.weights)


def _from_recipe(cfg: DictConfig) -> Subject:
    if cfg.mode == "sample":
        check_guidance(cfg)
    fill_in_data_facts(cfg, build(cfg.data))
    if not is_generative(cfg.module):
        raise ConfigError("module: a classifier makes no samples; choose another experiment")
    torch.manual_seed(key(cfg.seed, "weights"))
    net = build_net(cfg.net).requires_grad_(False).eval()
    _wake(net, cfg.seed)
    trained = Trained(
        net=net.to(device_for(cfg.accelerator)),
        schedule=build(cfg.schedule),
        objective=build(cfg.objective),
        cfg=cfg,
        run_dir=Path("benchmarks") / cfg.name,
        step=0,
        digest=short_digest(net),
        spent={},
    )
    return Subject(trained, cfg, cfg.weights, fresh=True)


def _wake(net: nn.Module, seed: int) -> None:
    """A last layer of zeros would hide everything that a backend does wrong before it."""
    g = generator("cpu", seed, "woken")
    for parameter in net.parameters():
        if not bool(parameter.any()):
            parameter.normal_(0, WOKEN, generator=g)


def checked(cfg: DictConfig, given: Collection[str]) -> DictConfig:
    """The config resolved and valid, and the options of this verb in their ranges."""
    for name, right in (("backend", "backends=[...]"), ("precision", "precisions=[...]"),
                        ("batch_size", "batch_sizes=[...]")):  # fmt: skip
        if name in given:
            raise ConfigError(f"{name}: several are compared here: {right}")
    if cfg.ckpt_path:
        raise ConfigError("ckpt_path: resumes a training; a net to measure is given by run=")
    cfg = resolved(cfg)
    if cfg.run:
        validate(cfg, "benchmark")
    else:
        rehearse(cfg, "benchmark")
    return cfg

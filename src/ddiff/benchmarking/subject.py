"""The net that is measured: the net of a run, or one with fresh weights of a recipe."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.trained import Trained
from ddiff.build import (
    build,
    build_guidance,
    build_net,
    check_guidance,
    is_generative,
    module_class,
)
from ddiff.config.options import Benchmark, Train, own_options, tree_of, typed
from ddiff.config.trees import resolved
from ddiff.config.validation import validate
from ddiff.nets.conditions import Layout
from ddiff.system.checkpoints import short_digest
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError
from ddiff.system.random import generator, key
from ddiff.training.building import fill_in_data_facts
from ddiff.training.rehearsal import rehearse

OWN = (*own_options(Benchmark), "seed", "solver", "guidance")
WOKEN = 0.02  # standard deviation of parameters that a recipe starts at 0


@dataclass(frozen=True, eq=False)
class NetUnderTest:
    """`options` are the run's or the recipe's, with the benchmark's seed, solver and guidance."""

    trained: Trained
    options: Train
    weights: str | float  # ema, net, or the length of an average
    fresh: bool = False

    @classmethod
    def of(cls, options: Benchmark, given: Collection[str]) -> "NetUnderTest":
        """`given` holds the options named on the command line."""
        return _from_run(options, given) if options.run else _from_recipe(options)

    @property
    def exported(self) -> bool:
        """True if the net is an artifact, which runs in one way only."""
        return isinstance(self.trained.net, ArtifactNet)

    def __str__(self) -> str:
        net, options = self.trained.net, self.trained.options
        shape = "x".join(map(str, options.net.shape))
        count = sum(p.numel() for p in net.parameters())
        size = "exported" if self.exported else f"{count / 1e6:.2f} M parameters"
        state = "untrained" if self.fresh else f"at step {self.trained.step}"
        return f"{options.name}, {shape}, {size}, {state}"


def _from_run(options: Benchmark, given: Collection[str]) -> NetUnderTest:
    strange = sorted({name for name in given if name not in OWN})
    if strange:
        words = ", ".join(f"{name}=" for name in strange)
        raise ConfigError(f"run: a run is measured as it was trained; leave out {words}")
    assert options.run
    trained = Trained.load(options.run, options.weights, options.accelerator, options.shape)
    chosen = {name: getattr(options, name) for name in ("solver", "guidance") if name in given}
    own = replace(trained.options, seed=options.seed, **chosen)
    validate(DictConfig(tree_of(own)), bounds=False)
    if options.mode == "sample":
        build_guidance(own.guidance).check(bool(Layout.of_net(own.net)))
    return NetUnderTest(trained, own, options.weights)


def _from_recipe(options: Benchmark) -> NetUnderTest:
    if options.mode == "sample":
        check_guidance(options)
    fill_in_data_facts(options, build(options.data))
    if not is_generative(options.module):
        name = module_class(options.module).__name__.lower()
        raise ConfigError(f"module: {name} makes no samples; choose another experiment")
    torch.manual_seed(key(options.seed, "weights"))
    net = build_net(options.net).requires_grad_(False).eval()
    _wake(net, options.seed)
    trained = Trained(
        net=net.to(device_for(options.accelerator)),
        schedule=build(options.schedule),
        objective=build(options.objective),
        options=options,
        run_dir=Path("benchmarks") / options.name,
        step=0,
        digest=short_digest(net),
        spent={},
    )
    return NetUnderTest(trained, options, options.weights, fresh=True)


def _wake(net: nn.Module, seed: int) -> None:
    """A last layer of zeros would hide everything that a backend does wrong before it."""
    g = generator("cpu", seed, "woken")
    for parameter in net.parameters():
        if not bool(parameter.any()):
            parameter.normal_(0, WOKEN, generator=g)


def checked(cfg: DictConfig, given: Collection[str]) -> Benchmark:
    """The options of a benchmark, resolved and valid."""
    for name, right in (("backend", "backends=[...]"), ("precision", "precisions=[...]"),
                        ("batch_size", "batch_sizes=[...]")):  # fmt: skip
        if name in given:
            raise ConfigError(f"{name}: several are compared here: {right}")
    if cfg.ckpt_path:
        raise ConfigError("ckpt_path: resumes a training; a net to measure is given by run=")
    if cfg.init:
        raise ConfigError("init: starts a training; a net to measure is given by run=")
    if cfg.shape and not cfg.run:
        raise ConfigError("shape: is of a folder that run= names; say data.size= or net.shape=")
    cfg = resolved(cfg)
    if cfg.run:
        validate(cfg, "benchmark")
    else:
        rehearse(cfg, "benchmark")
    return typed(Benchmark, cfg)

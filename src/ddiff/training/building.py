"""Building of a module and a Trainer from checked options."""

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig, OmegaConf

from ddiff.build import build_backend, build_net, is_generative, module_class
from ddiff.config.options import Train
from ddiff.config.targets import GROUPS, build, locate
from ddiff.config.trees import origin
from ddiff.nets.conditions import Layout
from ddiff.profiling.loop import LoopProfiler
from ddiff.profiling.timeline import Timeline
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError
from ddiff.system.precision import Precision
from ddiff.system.random import key
from ddiff.training.callbacks.pause import Pause
from ddiff.training.modules import DDPM, Learner
from ddiff.training.modules.plugins import AtomicCheckpointIO, GradientScaling


def fill_in_data_facts(
    options: Train, data: Any, begun: bool = False, kept: DictConfig | None = None
) -> None:
    """The net's shape, number of classes and other conditions come from the data, and stay in the
    run's config.

    - `begun`: the options are those of a run, which keeps the module that it was started with.
    - `kept`: net.conditions of that run, which keeps the laws of its numbers.
    """
    module = module_class(options.module)
    options.net.shape = list(data.shape)
    layout = data.layout if module.conditional else None
    if layout or "num_classes" in options.net:
        options.net.num_classes = layout.num_classes if layout else None
    if layout and layout.by_rows:
        _check_conditions(options, module)
        options.net.conditions = _kept(kept, layout)
    if data.original is not data:
        _check_latents(options, module)
    if module.dims and module.dims != len(data.shape) - 1 and not begun:
        shape = "x".join(map(str, data.shape))
        raise ConfigError(
            f"module: {module.__name__} is for volumes, and the data are pictures of {shape}; "
            "use module=ddpm, or data=... without experiment= for parts that suit the data"
        )
    if layout is not None and not layout:
        raise ConfigError(
            f"module: {module.__name__} needs labels and the data has none; "
            "use module=ddpm or module=voxel_ddpm, or labelled data"
        )


def _check_latents(options: Train, module: Any) -> None:
    """Raise ConfigError if module or net take for granted that data are in [-1, 1]."""
    if module.dims:
        raise ConfigError(
            f"module: {module.__name__} is for volumes, and the data are latents; use module=ddpm"
        )
    if options.net.get("bounded"):
        raise ConfigError(
            "net.bounded=true keeps predictions between -1 and 1, where latents are not; use "
            "net.bounded=false"
        )


def _check_conditions(options: Train, module: Any) -> None:
    """Raise ConfigError if module or net know labels alone."""
    if not module.generative:
        raise ConfigError(
            f"module: {module.__name__} reads classes alone; leave data.conditions out"
        )
    net = locate(options.net["_target_"], GROUPS["net"].packages)
    if "conditions" not in inspect.signature(net).parameters:
        raise ConfigError(f"net: {net.__name__} is told labels alone; leave data.conditions out")


def _kept(before: DictConfig | None, layout: Layout) -> dict[str, Any] | None:
    """The layout as an option; numbers of the same names keep the laws that a run began with."""
    found = layout.options()
    if found and before and set(before.get("numbers") or ()) == set(layout.numbers):
        kept = OmegaConf.to_container(before)
        assert isinstance(kept, dict)
        same = all(kept.get(name) == found.get(name) for name in ("length", "pictures"))
        same = same and _width(kept) == _width(found)
        return {str(name): value for name, value in kept.items()} if same else found
    return found


def _width(conditions: dict[Any, Any]) -> int | None:
    """Return the length of the vectors that a net is told; None where it is told none."""
    return (conditions.get("vector") or {}).get("width")


def build_module(options: Train, precision: Precision) -> Learner:
    """The LightningModule, its weights drawn from the seed."""
    torch.manual_seed(key(options.seed, "weights"))
    supplied: dict[str, Any] = {
        "net": build_net(options.net),
        "optimizer": build(options.optimizer),
        "lr_schedule": build(options.lr_schedule),
        "precision": precision,
        "seed": options.seed,
    }
    if is_generative(options.module):
        schedule = build(options.schedule)
        timesteps = build(options.timesteps, schedule=schedule)
        timesteps.check(origin(options))
        supplied |= {
            "schedule": schedule,
            "objective": build(options.objective),
            "timesteps": timesteps,
        }
    module = build(options.module, **supplied)
    backend = build_backend(options.backend, device_for(options.trainer.accelerator))
    backend.prepare(module.net)
    backend.prepare(module.ema)
    if isinstance(module, DDPM):
        module.add_noise = backend.add_noise
    return module


def build_trainer(
    options: Train,
    run_dir: Path,
    logger: Any,
    callbacks: list,
    precision: Precision,
    timeline: Timeline | None = None,
) -> Trainer:
    """Lightning's Trainer. Training is counted in optimiser steps; there are no epochs in it."""
    _quiet()
    given = {name: value for name, value in options.trainer.items() if name != "_target_"}
    budget, accumulate = options.budget, given["accumulate_grad_batches"]
    given["val_check_interval"] = min(budget.val_every, budget.max_steps) * accumulate
    max_time = given.pop("max_time")
    # first, so that the others see that this step is the last
    if max_time is not None:
        callbacks = [Timer(max_time, verbose=False), *callbacks]
    if budget.pause_at is not None:
        callbacks = [Pause(budget.pause_at), *callbacks]
    plugins: list = [AtomicCheckpointIO()]
    if precision.needs_scaling:
        plugins.append(GradientScaling(device_for(options.trainer.accelerator)))
    return Trainer(
        **given,
        default_root_dir=str(run_dir),
        logger=logger or False,
        callbacks=callbacks,
        plugins=plugins,
        profiler=None if timeline is None else LoopProfiler(timeline),
    )


def _quiet() -> None:
    """Leaves of Lightning's remarks those that a user of ddiff can act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # ours hold their data in memory, or chose their workers
        ".*in eval mode at the start of training.*",  # the averaged net always is
        ".*treespec, LeafSpec.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*functional.all_gather is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)

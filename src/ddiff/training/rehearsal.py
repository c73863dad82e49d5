"""Builds the small parts of a training before the large ones.

What only two options together get wrong is found here: before data are read or downloaded, and,
where torch is enough, before Lightning is imported.
"""

import inspect
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from omegaconf import DictConfig, ListConfig

from ddiff.build import module_class
from ddiff.config.options import Train, typed
from ddiff.config.targets import build, locate
from ddiff.config.validation import validate
from ddiff.nets.conditions import Layout
from ddiff.system.devices import cpu_count, device_for
from ddiff.system.errors import ConfigError, DdiffError

WRONG = (ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError, LookupError)
DIFFUSION = ("schedule", "objective", "timesteps", "solver", "guidance")
COPIES = 2  # of the weights, in the memory of the machine: the net's and the averaged ones


def rehearse(
    cfg: DictConfig, verb: str = "train", done: int = 0, unbounded: Collection[str] = ()
) -> None:
    """Raises ConfigError for options that are wrong, or that do not go together. `cfg` is resolved.

    `done`: steps of the training that were done before, and `unbounded`: options that it was done
    with, whose bounds do not count.
    """
    validate(cfg, verb, stages=(False,), unbounded=unbounded)
    options = typed(Train, cfg.copy())
    _check_trainer(options)
    if not done:  # a run that is continued may be near its end
        _check_profiler(options)
    _check_optimizer(options)
    _check_diffusion(options)
    validate(cfg, verb, stages=(True,), unbounded=unbounded)
    _check_strategy(options.trainer.strategy)
    _check_loggers(options)
    _check_module(options)
    if "net.groups" not in unbounded:
        _check_groups(options.net)
    _check_net(options, begun=done > 0)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turns what a library says of wrong options into one line that names them."""
    try:
        yield
    except DdiffError:
        raise
    except WRONG as error:
        lines = str(error).strip().splitlines() or ["these options make nothing that is finite"]
        raise ConfigError(f"{where}: {lines[0]}") from error


def _check_trainer(options: Train) -> None:
    trainer = options.trainer
    for name, ours in (("max_steps", "max_steps"), ("log_every_n_steps", "log_every")):
        if name in trainer and trainer[name] != getattr(options.budget, ours):
            raise ConfigError(f"trainer.{name}: follows budget.{ours}; say budget.{ours}= instead")
    device, devices = device_for(trainer.accelerator), trainer.get("devices", 1)
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, str) and devices != "auto":
        raise ConfigError(f"trainer.devices: {devices!r} is not a number, a list or auto")
    if device.type == "cuda":
        import torch

        here = torch.cuda.device_count()
        wanted = [*devices] if not isinstance(devices, int | str) else []
        if devices == 0 or (isinstance(devices, int) and devices > here):
            raise ConfigError(f"trainer.devices: {devices}, and there are {here} GPUs here")
        if wrong := [number for number in wanted if number >= here]:
            raise ConfigError(f"trainer.devices: no GPU {wrong[0]}; they are 0..{here - 1}")
    elif device.type == "cpu" and devices != "auto":
        cores = cpu_count()
        if not isinstance(devices, int) or not 1 <= devices <= cores:
            raise ConfigError(
                f"trainer.devices: {devices}; on a CPU it is a number of processes, "
                f"and this machine has {cores} cores"
            )


def _check_profiler(options: Train) -> None:
    profiler, steps = build(options.profiler), options.budget.max_steps
    if steps <= profiler.waits:
        raise ConfigError(
            f"profiler: times no step before step {profiler.waits + 1}, and {steps} are to be "
            "done; take more by budget.max_steps=, or fewer by profiler.warmup=1"
            + (" profiler.active=1" if "active" in options.profiler else "")
        )


def _check_optimizer(options: Train) -> None:
    from torch import nn

    shapes = ((2, 2, 3, 3), (2,))
    with _told("optimizer"):
        import torch

        optimizer = build(options.optimizer)([nn.Parameter(torch.zeros(shape)) for shape in shapes])
    with _told("lr_schedule"):
        build(options.lr_schedule)(optimizer)


def _check_diffusion(options: Train) -> None:
    if not options.schedule:
        return
    with _told("schedule"):
        schedule = build(options.schedule)
    if options.objective:
        with _told("objective"):
            objective = build(options.objective)
            objective.check(schedule)
            objective.weights(schedule)
    if options.solver:
        with _told("solver"):
            build(options.solver)(schedule)
    if options.timesteps:
        with _told("timesteps"):
            build(options.timesteps, schedule=schedule)
    if options.guidance:
        build(options.guidance)


def _check_strategy(strategy: str) -> None:
    if strategy in ("auto", "ddp"):
        return
    from lightning.pytorch.strategies import StrategyRegistry

    if strategy not in StrategyRegistry.available_strategies():
        raise ConfigError(f"trainer.strategy: there is no {strategy!r}; auto and ddp are usual")


def _check_loggers(options: Train) -> None:
    from ddiff.training.loggers import check_loggers

    check_loggers(options.logger)


def _check_module(options: Train) -> None:
    """Raises where module and net, or module and the parts of diffusion, do not go together."""
    module = module_class(options.module)
    name = module.__name__
    if module.generative and (
        absent := [group for group in DIFFUSION if not getattr(options, group)]
    ):
        raise ConfigError(f"module: {name} needs {', '.join(f'{group}=...' for group in absent)}")
    net = locate(options.net["_target_"], ("ddiff.nets",))
    try:
        inspect.signature(getattr(net, "forward", net)).bind(None, *module.inputs)
        fits = "noise" not in module.inputs or hasattr(net, "encode")
    except TypeError:
        fits = False
    if not fits:
        kind, other = module.suited
        raise ConfigError(
            f"module: {name} needs {kind}, such as {other}, and {net.__name__} is not one"
        )


def _check_net(options: Train, begun: bool) -> None:
    """Raises where the net does not fit the data, whose shape the options alone must tell."""
    from ddiff.sampling.conditions import conditions_for
    from ddiff.training.building import fill_in_data_facts

    if "root" in options.data and "download" not in options.data:
        return  # files tell the rest
    with _told("data"):
        data = build(options.data)
    fill_in_data_facts(options, data, begun)
    if options.schedule:
        conditions_for(options.sampling.y, 1, Layout.of_net(options.net), data.examples)
    import torch

    nested = {
        str(name): build(node)
        for name, node in options.net.items()
        if isinstance(node, DictConfig) and "_target_" in node
    }
    node = DictConfig({k: v for k, v in options.net.items() if k not in nested})
    ours = str(node["_target_"]).startswith("ddiff.")
    try:
        with _told("net"), torch.device("meta"):  # takes no memory and no time
            net = build(node, **nested)
    except ConfigError:
        if ours:
            raise
        return  # a net of the user's may look at its numbers
    with _told("optimizer"):  # which may need weights of some kind
        kinds = [torch.nn.Parameter(torch.zeros([0] * p.ndim)) for p in net.parameters()]
        build(options.optimizer)(kinds)
    size, memory = sum(p.numel() * p.element_size() for p in net.parameters()), _memory()
    if COPIES * size > memory:
        raise ConfigError(
            f"net: {COPIES} copies of {size / 1e9:.1f} GB of weights are more than the "
            f"{memory / 1e9:.1f} GB of this machine; a narrower net= takes less"
        )


def _check_groups(net: DictConfig) -> None:
    """Raises where net.groups divides no width of the net, which would silently take fewer."""
    groups, channels = net.get("groups"), net.get("channels")
    several = isinstance(channels, ListConfig)
    wide = [c for c in channels if c >= groups] if groups and several else []
    if wide and all(c % groups for c in wide):
        fitting = max(g for g in range(1, groups) if wide[0] % g == 0)
        raise ConfigError(
            f"net.groups={groups} divides none of net.channels={channels}; {fitting} does"
        )


def _memory() -> float:
    """Bytes of the machine; endless where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")

"""Targets: from the name in `_target_` to the class or function, and to the object it makes.

A config out of a checkpoint is a stranger's, so targets come only from the packages below.
Your own classes join with DDIFF_TRUST=my_package in the environment, never through a file.
"""

import importlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ddiff.system.errors import nearest


@dataclass(frozen=True)
class Place:
    """Packages that the targets of a group come from, and the arguments supplied to them."""

    packages: tuple[str, ...]
    supplied: tuple[str, ...] = ()  # arguments that the code supplies, where a target names them
    needs_lightning: bool = False


GROUPS = {
    "net": Place(("ddiff.nets",), ("shape", "num_classes", "conditions")),
    "schedule": Place(("ddiff.diffusion.schedules",)),
    "objective": Place(("ddiff.diffusion.objectives",)),
    "timesteps": Place(("ddiff.diffusion.timesteps",), ("schedule",)),
    "solver": Place(("ddiff.diffusion.solvers", "ddiff.diffusion.plans"), ("schedule",)),
    "guidance": Place(("ddiff.diffusion.guidance",)),
    "precision": Place(("ddiff.system.precision",)),
    "backend": Place(("ddiff.backends",)),
    "profiler": Place(("ddiff.profiling",)),
    "engine": Place(("ddiff.study.engines",)),
    "format": Place(("ddiff.artifacts",)),
    "extractor": Place(("ddiff.metrics",), ("shape", "data", "device"), True),
    "metrics": Place(("ddiff.metrics",), needs_lightning=True),
    "optimizer": Place(("torch.optim", "ddiff.training.optimizers"), ("params",)),
    "lr_schedule": Place(("ddiff.training.lr_schedules",), ("optimizer",)),
    "data": Place(("ddiff.data",), needs_lightning=True),
    "module": Place(
        ("ddiff.training.modules",),
        ("net", "schedule", "objective", "timesteps", "optimizer", "lr_schedule", "precision",
         "seed"),
        True,
    ),
    "logger": Place(
        ("ddiff.training.loggers", "lightning.pytorch.loggers"), ("run_dir", "resume_step"), True
    ),
    "callbacks": Place(
        ("ddiff.training.callbacks", "lightning.pytorch.callbacks"),
        ("run_dir", "progress", "generate", "columns", "examine"),
        True,
    ),
    "trainer": Place(
        ("lightning.pytorch",),
        ("logger", "callbacks", "plugins", "default_root_dir", "profiler"),
        True,
    ),
}  # fmt: skip
# of targets inside a group's own options
NESTED = ("ddiff.nets", "ddiff.diffusion.schedules", "ddiff.data")


def locate(target: Any, packages: tuple[str, ...]) -> Any:
    """The class or function that `target` names, or a ValueError that says why not."""
    trusted = tuple(filter(None, os.environ.get("DDIFF_TRUST", "").split(",")))
    module_name, _, name = str(target).rpartition(".")
    ours = module_name in packages
    if not (ours or module_name.split(".")[0] in trusted) or name.startswith("_"):
        own = module_name.split(".")[0]
        hint = f"; DDIFF_TRUST={own} in the environment admits a package of yours" if own else ""
        raise ValueError(f"{target!r} is not allowed; give a name in {' or '.join(packages)}{hint}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{target!r} cannot be imported: {error}") from None
    public = getattr(module, "__all__", [n for n in dir(module) if not n.startswith("_")])
    found = getattr(module, name, None)
    if not callable(found) or (ours and not found.__module__.startswith(module_name)):
        raise ValueError(f"{target!r} does not exist{nearest(name, list(public))}")
    return found


def build_asking(group: str, node: DictConfig, offered: Mapping[str, Any]) -> Any:
    """Build the node; of what is offered, the target gets the arguments that it names."""
    asked = inspect.signature(locate(node["_target_"], GROUPS[group].packages)).parameters
    return build(node, **{name: value for name, value in offered.items() if name in asked})


def build(node: DictConfig, **supplied: Any) -> Any:
    """Build the object of the node's `_target_` from its options and what the code supplies.

    Supplied objects do not pass through Hydra, which would take our dataclasses for configs.
    """
    factory = instantiate(node, _partial_=True, _convert_="all")
    factory = partial(factory, **supplied)
    return factory if node.get("_partial_") else factory()

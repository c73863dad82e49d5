"""From the name in `_target_` to the class or function, and to what it makes.

A config out of a checkpoint is a stranger's, so targets come only from the packages below.
Your own classes join with DDIFF_TRUST=my_package in the environment, never through a file.
"""

import importlib
import os
from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ddiff.system.errors import nearest

OF_MODULE = frozenset(("net", "schedule", "objective", "timesteps", "optimizer", "lr_schedule",
                       "precision", "seed"))  # fmt: skip
# group -> (where its targets live, arguments that the code supplies, imports Lightning)
GROUPS: dict[str, tuple[str, frozenset[str], bool]] = {
    "net": ("ddiff.nets", frozenset({"shape", "num_classes"}), False),
    "schedule": ("ddiff.diffusion.schedules", frozenset(), False),
    "objective": ("ddiff.diffusion.objectives", frozenset(), False),
    "timesteps": ("ddiff.diffusion.timesteps", frozenset({"schedule"}), False),
    "solver": ("ddiff.diffusion.solvers", frozenset({"schedule"}), False),
    "guidance": ("ddiff.diffusion.guidance", frozenset(), False),
    "precision": ("ddiff.system.precision", frozenset(), False),
    "backend": ("ddiff.backends", frozenset(), False),
    "profiler": ("ddiff.profiling", frozenset(), False),
    "format": ("ddiff.artifacts", frozenset(), False),
    "extractor": ("ddiff.metrics", frozenset({"shape", "data", "device"}), True),
    "metrics": ("ddiff.metrics", frozenset(), True),
    "optimizer": ("torch.optim ddiff.training.optimizers", frozenset({"params"}), False),
    "lr_schedule": ("ddiff.training.lr_schedules", frozenset({"optimizer"}), False),
    "data": ("ddiff.data", frozenset(), True),
    "module": ("ddiff.training.modules", OF_MODULE, True),
    "logger": (
        "ddiff.training.loggers lightning.pytorch.loggers",
        frozenset({"run_dir", "resume_step"}),
        True,
    ),
    "callbacks": (
        "ddiff.training.callbacks lightning.pytorch.callbacks",
        frozenset(),
        True,
    ),
    "trainer": (
        "lightning.pytorch",
        frozenset({"logger", "callbacks", "plugins", "default_root_dir", "profiler"}),
        True,
    ),
}
NESTED = ("ddiff.nets", "ddiff.diffusion.schedules")  # targets inside a group's own options


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


def build(node: DictConfig, **supplied: Any) -> Any:
    """What the node's `_target_` makes, from its options and what the code supplies.

    Supplied objects do not pass through Hydra, which would take our dataclasses for configs.
    """
    factory = instantiate(node, _partial_=True, _convert_="all")
    factory = partial(factory, **supplied)
    return factory if node.get("_partial_") else factory()

"""Trees of options: resolved, flattened, and never endless."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddiff.system.errors import ConfigError

LARGEST = 100_000  # values in a config; ours hold 200


# packages of targets in the configs of older runs -> where they are now
MOVED = {
    "ddiff.lr_schedules": "ddiff.training.lr_schedules",
    "ddiff.modules": "ddiff.training.modules",
    "ddiff.optimizers": "ddiff.training.optimizers",
    "ddiff.precision": "ddiff.system.precision",
}
# options of data that say what is told of a sample, not what it is
TELLING = ("conditions", "numbers", "text", "vectors", "masks")
# Options that later versions added -> what nets, samplers and data without them did. A value that
# says the same is left out of what is compared. `CIFAR10.size` is data.size of that class.
ADDED = {
    "net.norm_eps": 1e-5,
    "net.downsample_padding": "both",
    "net.embedding.flip_sin_to_cos": False,
    "net.embedding.freq_shift": 1,
    "net.embedding.out_dim": None,
    "net.embedding.shortcuts": False,
    "net.conditions": None,
    "data.conditions": None,
    "data.numbers": None,
    "data.text": None,
    "data.vectors": None,
    "data.masks": None,
    "objective.data_std": 1.0,
    "module.immiscible": False,
    "module.shortcuts": 0.0,
    "module.shortcuts_steps": 16,
    "module.shortcuts_guidance": 0.0,
    "CIFAR10.size": 32,
    "CIFAR10.channels": 3,
    "FashionMNIST.channels": 1,
    "MNIST.channels": 1,
    "Voxels.channels": 1,
    "Voxels.fit": "exact",
    "Voxels.window": None,
    "Voxels.percentiles": None,
    "Voxels.spacing": None,
}


def resolved(cfg: DictConfig) -> DictConfig:
    """A copy with every interpolation replaced by its value; missing options are named together."""
    tree = OmegaConf.to_container(cfg, resolve=False)
    check_size(tree)
    if absent := missing(tree):
        raise ConfigError(absent)
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        return DictConfig(with_current_targets(tree))
    except OmegaConfBaseException as error:
        ours = r"(Config|Ddiff)Error raised while resolving interpolation: "
        raise ConfigError(re.sub(f"^{ours}", "", str(error).splitlines()[0])) from error


def missing(tree: Any) -> str | None:
    """A line that names the required options without a value, or None."""
    names = sorted(name for name, value in flat(tree).items() if value == "???")
    return f"required: {', '.join(f'{name}=...' for name in names)}" if names else None


def check_size(tree: Any) -> None:
    """Raises ConfigError where a config is endless, or would be once it is written out.

    `tree` is made of dicts, lists and plain values. A part that stands in several places, and an
    interpolation, count once for every place.
    """
    known: dict[Any, int | None] = {}  # None: being counted, so that it holds itself

    def size(node: Any, path: tuple[str, ...]) -> int:
        if not isinstance(node, str | Mapping | list | tuple):
            return 1
        key = path if isinstance(node, str) else id(node)
        if key in known:
            if (found := known[key]) is None:
                raise ConfigError(f"{'.'.join(path)}: refers to itself")
            return found
        known[key] = None
        if isinstance(node, str):
            total = 1 + len(node) // 100
            for name in re.findall(r"\$\{([\w.\[\]]+)\}", node):
                at = _absolute(name, path)
                with contextlib.suppress(KeyError, IndexError, ValueError, TypeError):
                    total += size(part(tree, at), at)
        else:
            pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
            total = 1 + sum(size(value, (*path, str(name))) for name, value in pairs)
        if total > LARGEST:
            raise ConfigError(f"the config holds more than {LARGEST} values once it is written out")
        known[key] = total
        return total

    try:
        size(tree, ())
    except RecursionError:
        raise ConfigError("the config is nested too deeply, or refers to itself") from None


def check_files(folder: Path) -> None:
    """Raises ConfigError for a YAML below `folder` that is endless, before anything expands it, and
    for one that has the name of another one of ddiff, which Hydra would take in its place.

    A file that does not parse passes: it may not be used.
    """
    for path in islice(folder.rglob("*.yaml"), 1000):
        name = path.relative_to(folder)
        of_ddiff = files("ddiff.conf") / str(name)
        if of_ddiff.is_file() and of_ddiff.read_bytes() != path.read_bytes():
            raise ConfigError(f"{path}: ddiff has a {name} of its own; give yours another name")
        try:
            check_yaml(path)
        except (OSError, ValueError, yaml.YAMLError):
            continue


def check_yaml(path: Path) -> None:
    """Raises ConfigError for an endless file, by its aliases, which take no memory unexpanded."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in parts for part in pair]
            sizes[id(node)] = 1 + sum(map(size, parts))
        found = sizes[id(node)]
        if found is None or found > LARGEST:
            what = "holds itself" if found is None else f"holds more than {LARGEST} values"
            raise ConfigError(f"{path} {what} once its aliases are written out")
        return found

    with path.open(encoding="utf-8") as file:
        for document in yaml.compose_all(file, yaml.SafeLoader):
            if document is not None:
                size(document)


def _absolute(name: str, path: tuple[str, ...]) -> tuple[str, ...]:
    """`..channels[0]` in an option at `path` -> the path of what it stands for."""
    words = name.replace("[", ".").replace("]", "").lstrip(".").split(".")
    dots = len(name) - len(name.lstrip("."))
    return (*path[: len(path) - dots], *words) if dots else tuple(words)


def part(tree: Any, path: str | Sequence[str]) -> Any:
    """The part of a tree that a name such as `net.channels` stands for."""
    for word in path.split(".") if isinstance(path, str) else path:
        tree = tree[int(word)] if isinstance(tree, list) else tree[word]
    return tree


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{'net.channels': '[32, 64]', ...}: values that TensorBoard's hparams can hold."""
    if isinstance(tree, Mapping):
        pairs = [flat(value, f"{prefix}{name}.") for name, value in tree.items()]
        return {name: value for pair in pairs for name, value in pair.items()}
    plain = tree if isinstance(tree, bool | int | float | str) else str(tree)
    return {prefix[:-1]: plain}


def origin(cfg: Any) -> dict[str, Any]:
    """Options that scores of timesteps depend on: schedule, objective, net and data, flat.

    The config must be resolved, with the data's facts filled in. How data are split and loaded does
    not matter.
    """
    return identity(flat({g: getattr(cfg, g) for g in ("schedule", "objective", "net", "data")}))


def identity(options: dict[str, Any]) -> dict[str, Any]:
    """Flat options without those that say how data are split, loaded and described, not what they
    are, and without those of `ADDED`."""
    free = ("batch_size", "num_workers", "num_val", "seed", "download", "cache", *TELLING)
    left_out = {f"{place}.{name}" for place in ("data", "data.of") for name in free}
    kept = {k: v for k, v in options.items() if k not in left_out}
    return {k: v for k, v in kept.items() if not is_as_before(k, v, options)}


def is_as_before(name: str, value: Any, options: Mapping[str, Any]) -> bool:
    """Return True for an option of `ADDED` that says what versions without it did."""
    target = str(options.get("data._target_")).rpartition(".")[2]
    before = flat(ADDED)
    keys = (name, f"{target}.{name.removeprefix('data.')}")
    return any(key in before and before[key] == value for key in keys)


def config_of(checkpoint: dict[str, Any]) -> DictConfig:
    """The resolved config that a checkpoint was trained with; still to be validated."""
    tree = checkpoint["ddiff"]["config"]
    check_size(tree)  # before OmegaConf, which copies shared parts
    return DictConfig(with_current_targets(tree))


def stored(path: Path) -> DictConfig:
    """The config in a run's config.yaml; still to be validated."""
    check_yaml(path)
    return DictConfig(with_current_targets(OmegaConf.to_container(OmegaConf.load(path))))


def with_current_targets(tree: Any) -> Any:
    """A copy of the tree in which each `_target_` of an older ddiff has the name it has today."""
    if isinstance(tree, Mapping):
        return {
            key: _current(value) if key == "_target_" else with_current_targets(value)
            for key, value in tree.items()
        }
    return [with_current_targets(value) for value in tree] if isinstance(tree, list) else tree


def _current(target: Any) -> Any:
    package, _, name = str(target).rpartition(".")
    return f"{MOVED[package]}.{name}" if package in MOVED else target

"""Config trees are checked whole before anything is built: every target, every argument.

A config out of a checkpoint is a stranger's, so targets come only from the packages below.
Your own classes join with DDIFF_TRUST=my_package in the environment, never through a file.
"""

import contextlib
import importlib
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddiff.errors import ConfigError, nearest
from ddiff.options import COMPLETE, FOREIGN, INSTEAD, OF_VERB, PLAIN

# group -> (where its targets live, arguments that the code supplies, imports Lightning)
GROUPS: dict[str, tuple[str, frozenset[str], bool]] = {
    "net": ("ddiff.nets", frozenset({"shape", "num_classes"}), False),
    "schedule": ("ddiff.diffusion.schedules", frozenset(), False),
    "objective": ("ddiff.diffusion.objectives", frozenset(), False),
    "timesteps": ("ddiff.diffusion.timesteps", frozenset({"schedule"}), False),
    "solver": ("ddiff.diffusion.solvers", frozenset({"schedule"}), False),
    "guidance": ("ddiff.diffusion.guidance", frozenset(), False),
    "precision": ("ddiff.precision", frozenset(), False),
    "backend": ("ddiff.backends", frozenset(), False),
    "profiler": ("ddiff.profiling", frozenset(), False),
    "format": ("ddiff.artifacts", frozenset(), False),
    "extractor": ("ddiff.metrics", frozenset({"shape", "data", "device"}), True),
    "metrics": ("ddiff.metrics", frozenset(), True),
    "optimizer": ("torch.optim ddiff.optimizers", frozenset({"params"}), False),
    "lr_schedule": ("ddiff.lr_schedules", frozenset({"optimizer"}), False),
    "data": ("ddiff.data", frozenset(), True),
    "module": (
        "ddiff.modules",
        frozenset(
            {
                "net",
                "schedule",
                "objective",
                "timesteps",
                "optimizer",
                "lr_schedule",
                "precision",
                "seed",
            }
        ),
        True,
    ),
    "trainer": (
        "lightning.pytorch",
        frozenset({"logger", "callbacks", "plugins", "default_root_dir", "profiler"}),
        True,
    ),
}
MANY = ("metrics",)  # groups of which several are chosen at once: names -> nodes
LARGEST = 100_000  # values in a config; ours hold 200
REQUIRED = {"net", "optimizer", "lr_schedule", "data", "module", "trainer"}  # of a training
REQUIRED |= {"precision", "backend", "profiler", "format"}
SOURCES = {"shape": "the data", "num_classes": "the data"}  # where supplied arguments come from
NESTED = ("ddiff.nets", "ddiff.diffusion.schedules")  # targets inside a group's own options


Bounded = Callable[[str], bool]  # whether the bounds of the option of this name count


def everything(name: str) -> bool:
    """Return True: the bounds of every option count."""
    return True


def resolved(cfg: DictConfig) -> DictConfig:
    """A copy with every interpolation replaced by its value; missing options are named together."""
    tree = OmegaConf.to_container(cfg, resolve=False)
    check_size(tree)
    if missing := _missing(tree):
        raise ConfigError(missing)
    try:
        return DictConfig(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        ours = "ConfigError raised while resolving interpolation: "
        raise ConfigError(str(error).splitlines()[0].removeprefix(ours)) from error


def _missing(tree: Any) -> str | None:
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
                    total += size(_at(tree, at), at)
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
    """Raises ConfigError for a YAML below `folder` that is endless, before anything expands it.

    A file that does not parse passes: it may not be used.
    """
    for path in islice(folder.rglob("*.yaml"), 1000):
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


def _at(tree: Any, path: str | Sequence[str]) -> Any:
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


def origin(cfg: DictConfig) -> dict[str, Any]:
    """What scores of timesteps belong to: schedule, objective, net and data, as flat options.

    Resolved, the data's facts filled in. How data are split and loaded does not matter.
    """
    return identity(flat({g: cfg[g] for g in ("schedule", "objective", "net", "data")}))


def identity(options: dict[str, Any]) -> dict[str, Any]:
    """Flat options without those that say how data are split and loaded, not what they are."""
    free = ("batch_size", "num_workers", "num_val", "seed", "download")
    return {k: v for k, v in options.items() if k not in {f"data.{name}" for name in free}}


def check_given(cfg: DictConfig, verb: str) -> None:
    """Raises one ConfigError that names what is wrong with a command's own options.

    `cfg` is composed but not resolved. Nothing here imports torch, so that it answers at once;
    `validate` checks the rest, and what interpolations come to.
    """
    tree = OmegaConf.to_container(cfg, resolve=False)
    check_size(tree)
    assert isinstance(tree, dict)
    mistakes = [*_check_names(tree, verb), *_check_plain(tree, verb)]
    for group in GROUPS:
        for where, node in _nodes(group, tree.get(group)):
            if isinstance(node, Mapping):
                mistakes += _check_foreign(node, where)
    if missing := _missing(tree):
        mistakes.append(missing)
    if mistakes:
        raise ConfigError("; ".join(mistakes))


def validate(
    cfg: DictConfig,
    verb: str = "train",
    bounds: bool = True,
    stages: Sequence[bool] = (False, True),
    unbounded: Collection[str] = (),
) -> None:
    """Raises one ConfigError that names every mistake. `cfg` is resolved.

    Groups that need only torch come first: a mistake there answers before Lightning is imported.
    Without `bounds`, values only need to be of the right types: what was trained before an option
    had bounds can still be sampled from. `stages`: of groups that need no Lightning (False), and of
    those that do (True). `unbounded`: options whose bounds do not count, such as those that a run
    was trained with.
    """
    tree = OmegaConf.to_container(cfg)
    assert isinstance(tree, dict)

    def bounded(name: str) -> bool:
        return bounds and name not in unbounded

    for heavy in stages:
        mistakes = [] if heavy else list(_check_plain(tree, verb, bounded))
        mistakes += [
            mistake
            for group, (packages, supplied, needs_lightning) in GROUPS.items()
            if group in tree and tree[group] is not None
            for where, node in _nodes(group, tree[group])
            if heavy == (needs_lightning and not _is_foreign(node))
            for mistake in _check_node(node, where, tuple(packages.split()), supplied, bounded)
        ]
        if mistakes:
            raise ConfigError("; ".join(mistakes))


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


def _nodes(group: str, node: Any) -> Iterator[tuple[str, Any]]:
    if group not in MANY or not isinstance(node, Mapping):
        yield group, node
        return
    for name, one in node.items():
        if name != "auto":
            yield f"{group}.{name}", one


def known_options(verb: str) -> tuple[set[str], set[str]]:
    """The options outside the groups, dotted, and the groups, both as conf/<verb>.yaml has them."""
    plain: set[str] = set()
    groups: set[str] = set()
    tree = OmegaConf.to_container(OmegaConf.create(_yaml(verb)), resolve=False)
    assert isinstance(tree, dict)
    for default in tree.pop("defaults", ()):
        if isinstance(default, str) and default not in ("_self_", "shell"):
            above, below = known_options(default)
            plain, groups = plain | above, groups | below
        elif isinstance(default, Mapping):
            groups |= {str(name) for name in default if " " not in str(name)}
    plain |= {name for name in flat(tree) if not name.startswith("hydra.")}
    return plain, groups - {"experiment"}


def _yaml(verb: str) -> str:
    return (files("ddiff.conf") / f"{verb}.yaml").read_text(encoding="utf-8")


def _check_names(tree: Mapping, verb: str) -> Iterator[str]:
    """Options outside the groups that are unknown or gone, and groups without a choice.

    A name that begins with _ is free: a place for values that other options refer to.
    """
    plain, groups = known_options(verb)
    sections = {name.partition(".")[0] for name in plain if "." in name}
    for name, value in tree.items():
        if name in groups or name.startswith("_"):
            continue
        if name not in sections:
            given = [] if name in plain else [name]
        elif isinstance(value, Mapping):
            given = sorted(f"{name}.{key}" for key in value if f"{name}.{key}" not in plain)
        else:
            yield f"{name}: {_shown(value)} is not a set of options; say {name}.<option>=..."
            continue
        for option in given:
            yield f"{option}: no such option{nearest(option, sorted(plain | groups))}"
    for name in sorted(plain):
        section = name.partition(".")[0]
        there = isinstance(tree.get(section), Mapping) if section in sections else True
        if there and not _has(tree, name):
            yield f"{name}: missing"
    needed = REQUIRED if "net" in groups else REQUIRED | {"solver", "guidance"}
    for name in sorted((groups & needed) | (sections - tree.keys())):
        if tree.get(name) is None:
            yield f"{name}: missing" + (f"; say {name}=<a choice>" if name in groups else "")
    for group in sorted(groups & tree.keys() & GROUPS.keys()):
        node = tree[group]
        for option in sorted(GROUPS[group][1]) if isinstance(node, Mapping) else ():
            if node.get(option) is not None:
                source = SOURCES.get(option, "ddiff")
                yield f"{group}.{option}: comes from {source}, not from options"


def _has(tree: Any, name: str) -> bool:
    try:
        _at(tree, name)
    except (KeyError, IndexError, ValueError, TypeError):
        return False
    return True


def _check_plain(tree: Mapping, verb: str, bounded: Bounded = everything) -> Iterator[str]:
    for name, hint in {**PLAIN, **OF_VERB.get(verb, {})}.items():
        if _has(tree, name) and not _unknown(value := _at(tree, name)):
            problem = mismatch(value, hint, bounded(name))
            if problem:
                yield f"{name}: {problem}"


def _check_foreign(node: Mapping, where: str, bounded: Bounded = everything) -> Iterator[str]:
    """Mistakes in the options of torch's optimisers and Lightning's Trainer, without these."""
    table = FOREIGN.get(str(node.get("_target_", "")).rpartition(".")[0], {})
    complete = bounded(where) and node.get("_target_") in COMPLETE
    for name, value in node.items():
        if name in table:
            limits = bounded(f"{where}.{name}")
            if not _unknown(value) and (problem := mismatch(value, table[name], limits)):
                yield f"{where}.{name}: {problem}"
        elif complete and name in INSTEAD:
            yield f"{where}.{name}: not an option here; say {INSTEAD[name]}"
        elif complete and name != "_target_":
            yield f"{where}.{name}: no such option{nearest(str(name), sorted(table))}"


def _unknown(value: Any) -> bool:
    """Return True where the value is not there yet: an interpolation, or missing."""
    if isinstance(value, str):
        return "${" in value or value == "???"
    return isinstance(value, list) and any(map(_unknown, value))


def _is_foreign(node: Any) -> bool:
    return isinstance(node, Mapping) and node.get("_target_") in COMPLETE


def _check_node(
    node: Any,
    where: str,
    packages: tuple[str, ...],
    supplied: frozenset[str] = frozenset(),
    bounded: Bounded = everything,
) -> Iterator[str]:
    if not isinstance(node, Mapping):
        yield f"{where}: needs a mapping with _target_, not {node!r}"
        return
    if "_target_" not in node:
        yield f"{where}: has no _target_, as where nothing is chosen; say {where}=<a choice>"
        return
    yield from _check_foreign(node, where, bounded)
    if _is_foreign(node):
        return
    try:
        target = locate(node["_target_"], packages)
    except ValueError as error:
        yield f"{where}._target_: {error}"
        return
    yield from _check_arguments(target, node, where, supplied, bounded)
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _check_node(value, f"{where}.{name}", NESTED, bounded=bounded)


def _check_arguments(
    target: Any, node: Mapping, where: str, supplied: frozenset[str], bounded: Bounded
) -> Iterator[str]:
    parameters, hints = _parameters(target)
    given = {str(name) for name in node} - {"_target_", "_partial_"}
    special = {name for name in given if name.startswith("_")}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name in sorted(special):
        yield f"{where}.{name}: not an option"
    for name in sorted(given - special - set(names)):
        if not open_ended:
            yield f"{where}.{name}: no such option{nearest(name, sorted(set(names) - supplied))}"
    for name in names:
        required = parameters[name].default is inspect.Parameter.empty
        if required and name not in given and name not in supplied and name != "self":
            yield f"{where}.{name}: required"
    foreign = FOREIGN.get(node["_target_"].rpartition(".")[0], {})
    for name in sorted(given & set(names) - foreign.keys()):
        if name in supplied and node[name] is None:
            continue
        problem = mismatch(node[name], hints.get(name, Any), bounded(f"{where}.{name}"))
        if problem:
            yield f"{where}.{name}: {problem}"


def _parameters(target: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters and types of a class or function; **kwargs of a class are its parent's."""
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    classes = target.__mro__[:-1] if inspect.isclass(target) else (None,)
    for cls in classes:
        function = cls.__init__ if cls else target
        if cls and "__init__" not in vars(cls):
            continue
        own = inspect.signature(function).parameters
        parameters = {**own, **parameters}
        with contextlib.suppress(NameError, TypeError):  # types only a type checker sees
            hints = {**typing.get_type_hints(function, include_extras=True), **hints}
        variable = [name for name, p in own.items() if p.kind is p.VAR_KEYWORD]
        if not variable:
            for name in [n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD]:
                del parameters[name]
            break
    parameters.pop("self", None)
    return parameters, hints


def mismatch(value: Any, hint: Any, bounds: bool = True) -> str | None:
    """Why `value` is not of the annotated type or out of its bounds, in words; None where neither,
    or where it cannot be told."""
    if isinstance(value, Mapping) and "_target_" in value:
        return None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        problem = mismatch(value, args[0], bounds)
        if problem or not bounds or value is None:
            return problem
        return next(filter(None, (bound.problem(value) for bound in args[1:])), None)
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return None
        return f"{_shown(value)} is not one of {', '.join(map(str, args))}"
    if origin in (typing.Union, types.UnionType):
        problems = [mismatch(value, arg, bounds) for arg in args]
        if None in problems:
            return None
        for problem, arg in zip(problems, args, strict=True):
            if mismatch(value, arg, bounds=False) is None:
                return problem  # the type is right, and the bounds are what is wrong
        return f"{_shown(value)} is not {' or '.join(map(_name, args))}"
    if hint in (int, float, str, bool, type(None)):
        kinds = {float: (int, float), int: int, str: str, bool: bool, type(None): type(None)}
        fits = isinstance(value, kinds[hint]) and (hint is bool or not isinstance(value, bool))
        if hint is float and isinstance(value, int | float) and bounds and not _finite(value):
            return f"{value} is not a finite number"
        return None if fits else f"{_shown(value)} is not {_name(hint)}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return None if isinstance(value, Mapping) else f"{_shown(value)} is not {_name(hint)}"
    if inspect.isclass(origin) and issubclass(origin, typing.Iterable):
        if isinstance(value, str) or not isinstance(value, Sequence):
            return f"{_shown(value)} is not {_name(hint)}"
        if origin is tuple and args and args[-1] is not Ellipsis:
            if len(value) != len(args):
                return f"{_shown(value)} is not {_name(hint)}"
            pairs = zip(value, args, strict=True)
        else:
            pairs = ((one, args[0]) for one in value) if args else ()
        return next(filter(None, (mismatch(v, arg, bounds) for v, arg in pairs)), None)
    if _is_object(hint) and isinstance(value, str | int | float | Sequence):
        return f"{_shown(value)} is not {_name(hint)}"
    return None


def _shown(value: Any) -> str:
    """The value as it is written on the command line, texts in quotes."""
    plain = {None: "null", True: "true", False: "false"}
    return plain[value] if value is None or isinstance(value, bool) else repr(value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _is_object(hint: Any) -> bool:
    """Return True for a class of torch's, Lightning's or ours, which no plain value can be."""
    packages = ("torch", "lightning", "ddiff")
    return inspect.isclass(hint) and hint.__module__.split(".")[0] in packages


def _name(hint: Any) -> str:
    plain = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    if hint is type(None):
        return "null"
    if hint in plain:
        return plain[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _name(args[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_name, args))
    if _is_object(hint):
        return "a mapping with _target_"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a mapping"
    if origin is tuple and args and args[-1] is not Ellipsis:
        each = f" ({_name(args[0])} each)" if len(set(args)) == 1 else ""
        return f"a list of {len(args)}{each}"
    return "a list" + (f" ({_name(args[0])} each)" if args else "")

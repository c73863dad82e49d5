"""Config trees are checked whole before anything is built: every target, every argument.

A config out of a checkpoint is a stranger's, so targets come only from the packages below.
Your own classes join with DDIFF_TRUST=my_package in the environment, never through a file.
"""

import contextlib
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ddiff.config.options import COMPLETE, FOREIGN, INSTEAD, VERBS, Group, Train, hints_of, typed
from ddiff.config.targets import GROUPS, NESTED, locate
from ddiff.config.trees import check_size, missing, part, resolved
from ddiff.system.errors import ConfigError, nearest

MANY = ("metrics", "logger", "callbacks")  # several are chosen at once: names -> nodes, or null
REQUIRED = {"net", "optimizer", "lr_schedule", "data", "module", "trainer"}  # of a training
REQUIRED |= {"precision", "backend", "profiler", "format"}
# where supplied arguments come from
SOURCES = {name: "the data" for name in ("shape", "num_classes", "conditions")}


Bounded = Callable[[str], bool]  # whether the bounds of the option of this name count


def everything(name: str) -> bool:
    """Return True: the bounds of every option count."""
    return True


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
    if absent := missing(tree):
        mistakes.append(absent)
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
        if heavy:
            import_lightning()
        mistakes = [] if heavy else list(_check_plain(tree, verb, bounded))
        mistakes += [
            mistake
            for group, place in GROUPS.items()
            if group in tree and tree[group] is not None
            for where, node in _nodes(group, tree[group])
            if heavy == (place.needs_lightning and not _is_foreign(node))
            for mistake in _check_node(node, where, place.packages, place.supplied, bounded)
        ]
        if mistakes:
            raise ConfigError("; ".join(mistakes))


def import_lightning() -> None:
    """Imports Lightning without scipy.signal, which takes 0.8 s and which nothing here needs.

    torchmetrics, which Lightning imports, imports it to set a name in it for another package.
    """
    if "torchmetrics" in sys.modules or "scipy.signal" in sys.modules:
        return
    import scipy

    stand_in: Any = types.ModuleType("scipy.signal")
    stand_in.hamming = None  # the name
    sys.modules["scipy.signal"] = stand_in
    try:
        import lightning.pytorch  # noqa: F401
    finally:
        del sys.modules["scipy.signal"]
        scipy.__dict__.pop("signal", None)


def given_options(verb: str, words: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config that these words make of a verb, and the choice of every group.

    It is composed and checked as far as needs no torch. A mistake is a ConfigError in the words
    that the verb itself would use.
    """
    from ddiff.config.shell import explain

    before = sys.argv
    sys.argv = [verb, *words]  # where the shell looks for what was chosen
    try:
        with contextlib.ExitStack() as stack:
            if not GlobalHydra.instance().is_initialized():  # as it is inside a verb
                stack.enter_context(initialize_config_module("ddiff.conf", version_base="1.3"))
            cfg = compose(verb, list(words), return_hydra_config=True)
        chosen = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items() if v}
        with open_dict(cfg):
            del cfg["hydra"]
        check_given(cfg, verb)
        return cfg, chosen
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, verb)[0]) from None
    finally:
        sys.argv = before


def train_options(*overrides: str) -> Train:
    """The checked options of a training, from words as on the command line of `train`."""
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = resolved(compose("train", list(overrides)))
    validate(cfg)
    return typed(Train, cfg)


def _nodes(group: str, node: Any) -> Iterator[tuple[str, Any]]:
    if group not in MANY or not isinstance(node, Mapping):
        yield group, node
        return
    for name, one in node.items():
        if name != "auto" and (one is not None or group == "metrics"):
            yield f"{group}.{name}", one


def known_options(verb: str) -> tuple[set[str], set[str]]:
    """The options outside the groups, dotted, and the groups."""
    hints = hints_of(VERBS[verb])
    groups = {name for name, hint in hints.items() if hint == Group}
    return hints.keys() - groups, groups


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
        for where, node in _nodes(group, tree[group]):
            for option in sorted(GROUPS[group].supplied) if isinstance(node, Mapping) else ():
                if node.get(option) is not None:
                    source = SOURCES.get(option, "ddiff")
                    yield f"{where}.{option}: comes from {source}, not from options"


def _has(tree: Any, name: str) -> bool:
    try:
        part(tree, name)
    except (KeyError, IndexError, ValueError, TypeError):
        return False
    return True


def _check_plain(tree: Mapping, verb: str, bounded: Bounded = everything) -> Iterator[str]:
    for name, hint in hints_of(VERBS[verb]).items():
        if hint != Group and _has(tree, name) and not _unknown(value := part(tree, name)):
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
    supplied: tuple[str, ...] = (),
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
    target: Any, node: Mapping, where: str, supplied: tuple[str, ...], bounded: Bounded
) -> Iterator[str]:
    parameters, hints = _parameters(target)
    given = {str(name) for name in node} - {"_target_", "_partial_"}
    special = {name for name in given if name.startswith("_")}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name in sorted(special):
        yield f"{where}.{name}: not an option"
    choices = sorted(set(names) - {*supplied})
    more: list[str] = []  # for which the list of choices is not repeated
    for number, name in enumerate(() if open_ended else sorted(given - special - set(names))):
        hint = nearest(name, choices)
        if number > 0 and hint.startswith("; choose from"):
            more.append(name)
        else:
            yield f"{where}.{name}: no such option{hint}"
    if more:
        yield f"{where}: no such options {', '.join(more)}"
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

"""Config trees are checked whole before anything is built: every target, every argument.

A config out of a checkpoint is a stranger's, so targets come only from the packages below.
Your own classes join with DDIFF_TRUST=my_package in the environment, never through a file.
"""

import contextlib
import importlib
import inspect
import os
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddiff.errors import ConfigError, nearest

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
COUNTS = (  # options outside the groups that must be 1 or more
    *(f"budget.{name}" for name in ("max_steps", "batch_size", "val_every", "sample_every")),
    *("budget.log_every", "budget.save_every", "sampling.num_samples", "sampling.batch_size"),
    *("evaluation.every", "evaluation.num_samples", "evaluation.batch_size"),
    *("num_samples", "batch_size", "min_batches", "max_batches", "bins"),
    *("num_steps", "repeats", "threads"),
)
PLAIN: dict[str, Any] = {  # and the others, with their types
    **dict.fromkeys(COUNTS, int),
    **dict.fromkeys(("sampling.clamp", "clamp"), float | None),
    **dict.fromkeys(
        ("run_dir", "ckpt_path", "out", "mesh", "from", "optimized_metric"), str | None
    ),
    **dict.fromkeys(("name", "runs", "weights", "accelerator"), str),
    **dict.fromkeys(("samples", "reference", "cache"), str | None),
    **dict.fromkeys(("backends", "precisions"), list[str]),
    "solvers": list[str] | None,
    "batch_sizes": list[int],
    "num_steps": int | None,
    "mode": Literal["sample", "train"],
    **dict.fromkeys(("dynamic_batch", "overwrite"), bool),
    "evaluation.every": int | None,
    "value_range": Literal["auto", "signed", "unit", "bytes"],
    "seed": int,
    "threads": int | Literal["auto", "adapt"],
    "memory_budget_gb": float | None,
    "bins": int | None,
    "k": int | float,
    "score": Literal["exact", "last_layer", "proxy"],
    "relative_error": float,
}
NESTED = ("ddiff.nets", "ddiff.diffusion.schedules")  # targets inside a group's own options


def resolved(cfg: DictConfig) -> DictConfig:
    """A copy with every interpolation replaced by its value; missing options are named together."""
    try:
        missing = sorted(str(name) for name in OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError(f"required: {', '.join(f'{name}=...' for name in missing)}")
        return DictConfig(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        ours = "ConfigError raised while resolving interpolation: "
        raise ConfigError(str(error).splitlines()[0].removeprefix(ours)) from error


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


def validate(cfg: DictConfig) -> None:
    """Raises one ConfigError that names every mistake. `cfg` is resolved.

    Groups that need only torch come first: a mistake there answers before Lightning is imported.
    """
    for heavy in (False, True):
        mistakes = [] if heavy else list(_check_plain(cfg))
        mistakes += [
            mistake
            for group, (packages, supplied, needs_lightning) in GROUPS.items()
            if needs_lightning == heavy and group in cfg and cfg[group] is not None
            for where, node in _nodes(group, cfg[group])
            for mistake in _check_node(node, where, tuple(packages.split()), supplied)
        ]
        if mistakes:
            raise ConfigError("; ".join(mistakes))


def locate(target: Any, packages: tuple[str, ...]) -> Any:
    """The class or function that `target` names, or a ValueError that says why not."""
    trusted = tuple(filter(None, os.environ.get("DDIFF_TRUST", "").split(",")))
    module_name, _, name = str(target).rpartition(".")
    ours = module_name in packages
    if not (ours or module_name.split(".")[0] in trusted) or name.startswith("_"):
        raise ValueError(f"{target!r} is not allowed; give a name in {' or '.join(packages)}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{target!r} cannot be imported: {error}") from None
    public = getattr(module, "__all__", [n for n in dir(module) if not n.startswith("_")])
    found = getattr(module, name, None)
    if not callable(found) or (ours and not found.__module__.startswith(module_name)):
        raise ValueError(f"{target!r} does not exist{nearest(name, list(public))}")
    return found


def _nodes(group: str, node: Any) -> Iterator[tuple[str, Any]]:
    if group not in MANY or not isinstance(node, Mapping):
        yield group, node
        return
    for name, one in node.items():
        if name != "auto":
            yield f"{group}.{name}", one


def _check_plain(cfg: DictConfig) -> Iterator[str]:
    given = flat(cfg)
    for name, hint in PLAIN.items():
        value = OmegaConf.select(cfg, name) if name in given else None
        problem = mismatch(value, hint) if name in given else None
        if problem is None and name in COUNTS and isinstance(value, int) and value < 1:
            problem = f"{value} is less than 1"
        if problem:
            yield f"{name}: {problem}"


def _check_node(
    node: Any, where: str, packages: tuple[str, ...], supplied: frozenset[str] = frozenset()
) -> Iterator[str]:
    if not isinstance(node, Mapping):
        yield f"{where}: needs a mapping with _target_, not {node!r}"
        return
    if "_target_" not in node:
        yield f"{where}: has no _target_"
        return
    try:
        target = locate(node["_target_"], packages)
    except ValueError as error:
        yield f"{where}._target_: {error}"
        return
    yield from _check_arguments(target, node, where, supplied)
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _check_node(value, f"{where}.{name}", NESTED)


def _check_arguments(
    target: Any, node: Mapping, where: str, supplied: frozenset[str]
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
    for name in sorted(given & set(names)):
        if name in supplied and node[name] is None:
            continue
        problem = mismatch(node[name], hints.get(name, Any))
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
            hints = {**typing.get_type_hints(function), **hints}
        variable = [name for name, p in own.items() if p.kind is p.VAR_KEYWORD]
        if not variable:
            for name in [n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD]:
                del parameters[name]
            break
    parameters.pop("self", None)
    return parameters, hints


def mismatch(value: Any, hint: Any) -> str | None:
    """Why `value` is not of the annotated type, in words; None where it is, or cannot be told."""
    if isinstance(value, Mapping) and "_target_" in value:
        return None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return None
        return f"{value!r} is not one of {', '.join(map(str, args))}"
    if origin in (typing.Union, types.UnionType):
        problems = [mismatch(value, arg) for arg in args]
        if None in problems:
            return None
        return f"{value!r} is not {' or '.join(map(_name, args))}"
    if hint in (int, float, str, bool, type(None)):
        kinds = {float: (int, float), int: int, str: str, bool: bool, type(None): type(None)}
        fits = isinstance(value, kinds[hint]) and (hint is bool or not isinstance(value, bool))
        return None if fits else f"{value!r} is not {_name(hint)}"
    if origin is not None and inspect.isclass(origin) and issubclass(origin, typing.Iterable):
        if issubclass(origin, Mapping) or (inspect.isclass(origin) and origin is type):
            return None
        if isinstance(value, str) or not isinstance(value, typing.Sequence):
            return f"{value!r} is not {_name(hint)}"
        return next(filter(None, (mismatch(v, args[0]) for v in value)), None) if args else None
    return None


def _name(hint: Any) -> str:
    plain = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    if hint is type(None):
        return "null"
    if hint in plain:
        return plain[hint]
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    return "a list" + (f" ({_name(args[0])} each)" if args else "")

"""The shell around every verb: Hydra, `--help` that explains each option, a mistake in one line."""

import argparse
import errno
import functools
import importlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import ddiff.config.resolvers  # noqa: F401 (registers what configs call)
from ddiff.config import sweeps
from ddiff.config.help import choice_names, help_text
from ddiff.config.trees import check_files
from ddiff.config.validation import check_given
from ddiff.system.errors import ConfigError, DdiffError, nearest

Main = Callable[[DictConfig], Any]
GET_MODE = Hydra.get_mode
ONE_LINE = "DDIFF_ONE_LINE"  # tells other ranks that HYDRA_FULL_ERROR is ours, not the user's


def entry(
    config_name: str, prepare: Callable[[list[str]], None] = lambda argv: None
) -> Callable[[Main], Callable[[], None]]:
    """Makes `main(cfg)` a command: composes conf/<config_name>.yaml with the command line.

    `prepare(argv)` runs before Hydra composes.
    """

    def decorate(main: Main) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            trace = os.environ.get("HYDRA_FULL_ERROR") == "1" and ONE_LINE not in os.environ
            if not trace:
                os.environ[ONE_LINE] = "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra shall raise, not print
            shield = nullcontext() if trace else one_line(config_name)

            def checked_main(cfg: DictConfig) -> Any:
                check_given(cfg, config_name)
                return main(cfg)

            def job(cfg: DictConfig) -> Any:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    return sweeps.job(checked_main, cfg, config_name)
                with shield:  # inside Hydra too, which would add a line of its own
                    return checked_main(cfg)

            with shield:
                if "--help" in sys.argv or "-h" in sys.argv:
                    print(help_text(config_name, main.__doc__ or ""), flush=True)
                    return
                if own := config_dir(sys.argv[1:]):
                    check_files(own)
                sys.argv[1:] = [_renamed(word, config_name) for word in flags_first(sys.argv[1:])]
                prepare(sys.argv[1:])
                argparse.ArgumentParser.error = _refuse  # Hydra makes its parser itself
                Hydra.get_mode = _mode
                hydra.main(
                    version_base="1.3", config_path="pkg://ddiff.conf", config_name=config_name
                )(job)()

        return run

    return decorate


def run_verb(verb: str, words: Sequence[str]) -> tuple[int, str]:
    """Run a verb in this process, as its command would, and return its exit status and the line
    that says why it is not 0."""
    GlobalHydra.instance().clear()
    sys.argv = [f"ddiff.{verb}", *words]
    said = io.StringIO()
    status: Any = 0
    with redirect_stderr(said):
        try:
            importlib.import_module(f"ddiff.{verb}").main()
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            GlobalHydra.instance().clear()  # for the next verb
    print(said.getvalue(), end="", file=sys.stderr, flush=True)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("ddiff: ")]
    reason = lines[-1].removeprefix("ddiff: ") if lines else f"exit status {status}"
    return (status if isinstance(status, int) else 1), reason


def flags_first(words: list[str]) -> list[str]:
    """The words with options such as `-m` before all `key=value`, where Hydra wants them."""
    return sorted(words, key=lambda word: "=" in word and not word.startswith("-"))


def _renamed(word: str, verb: str) -> str:
    """`from=RUN`, as it was called before, is `run=RUN`."""
    return f"run={word[5:]}" if word.startswith("from=") and verb not in ("train", "data") else word


def _refuse(self: argparse.ArgumentParser, message: str) -> NoReturn:
    """One line in place of argparse's usage, which lists flags that nobody asked for."""
    raise ConfigError(f"{message}; options are written key=value, and --help lists them")


def _mode(self: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
    """Return what `hydra.mode` says.

    Hydra composes everything twice, the first time for this alone. The configs of ddiff do not set
    it, so only one's own or the command line can.
    """
    if config_dir(sys.argv[1:]) or any("hydra" in word for word in overrides):
        return GET_MODE(self, config_name, overrides)
    return None


@dataclass(frozen=True)
class one_line(AbstractContextManager):
    """Turns an exception into one line on stderr and an exit status."""

    config_name: str

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            fail("interrupted", 130)
        if isinstance(error, sweeps.JobFailed):
            print(f"ddiff: {sweeps.summary(error.sweep)}", file=sys.stderr)
            sys.exit(error.exit_status)
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # as of a process that SIGPIPE ends
        if isinstance(error, Exception):
            fail(*explain(error, self.config_name))


def fail(message: str, status: int) -> NoReturn:
    print(f"ddiff: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def explain(error: BaseException, config_name: str) -> tuple[str, int]:
    """One line and an exit status: 2 for a wrong command, 1 for the world."""
    if isinstance(error, DdiffError):
        return str(error), error.exit_status
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_hydra(str(error), config_name), 2
    text = str(error)
    if "out of memory" in text.lower() or "can't allocate memory" in text:
        from ddiff.config.levers import levers_in_words

        return (
            f"out of memory; what takes less (train memory_budget_gb=N looks): {levers_in_words()}",
            1,
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk: {error.filename or text}", 1
    if text.startswith("Config group override must be a string"):
        empty = [word for word in sys.argv[1:] if word.endswith("=null")]
        return f"{', '.join(empty)}: a group needs a choice; --help lists them", 2
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}", 1
    if isinstance(error, yaml.YAMLError):
        return f"cannot read a config: {text}", 2
    found = f"{type(error).__name__}: {text}"
    if "ImportError" in found and "torch" in sys.modules:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        if cache_dir() in found:
            return (
                "a compiled library is broken, as a process killed while it compiles leaves it; "
                f"remove {cache_dir()} and try again ({text})"
            ), 1
    return f"{found} (HYDRA_FULL_ERROR=1 shows where)", 1


def _explain_hydra(text: str, config_name: str) -> str:
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, name = found[1].rpartition("/")
        lines = text.partition("Config search path")[0].splitlines()
        choices = [line.strip() for line in lines if line.startswith("\t")]
        if not choices:
            return f"there is no config {found[1]!r}"
        return f"{group}: there is no {name!r}{nearest(name, choices)}"
    if found := re.search(r"Could not load '([^']+)/([^'/]+)'", text):
        choices = [f.name[:-5] for f in (files("ddiff.conf") / found[1]).iterdir()]
        return f"{found[1]}: there is no {found[2]!r}{nearest(found[2], sorted(choices))}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _explain_option(found[1].split("@")[0], config_name)
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]}: a sweep needs -m; a list is written key=[a,b]"
    if found := re.search(r"(?:Error parsing override|Error when parsing.*?) '([^']+)'", text):
        return f"cannot read {found[1]!r}; an option is written key=value"
    lines = [line for line in text.splitlines() if line.strip() and "HYDRA_FULL" not in line]
    return lines[0] if lines else text


def _explain_option(option: str, config_name: str) -> str:
    """Why there is no such option, by what this command chooses of its groups."""
    group, _, name = option.partition(".")
    chosen, known = _chosen(config_name)
    choice = chosen.get(group)
    if not name or choice is None:
        return f"{option}: no such option{nearest(option, sorted(known | chosen.keys()))}"
    own = sorted(n for n in known if n.startswith(f"{group}."))
    others = [c for c in choice_names(group) if c != choice and _has_option(group, c, name)]
    if not others:
        return f"{option}: no such option of {group}={choice}{nearest(option, own)}"
    having = ", ".join(f"{group}={other}" for other in others)
    return f"{option}: no such option of {group}={choice}; these have it: {having}"


def _chosen(config_name: str) -> tuple[dict[str, str], set[str]]:
    """The choice of every group and the name of every option, dotted, under this command's choices
    alone: without the values it gives to options."""
    from hydra import compose, initialize_config_module

    groups = {word.partition("=")[0]: word for word in sys.argv[1:] if re.match(r"[\w/]+=", word)}
    chosen = [groups[name] for name in groups if name.partition("/")[0] in _groups()]
    if own := config_dir(sys.argv[1:]):
        chosen.append(f"hydra.searchpath=[file://{own.absolute()}]")
    GlobalHydra.instance().clear()
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = compose(config_name, chosen, return_hydra_config=True)
    choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items() if "hydra/" not in k}
    tree = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(tree, dict)
    tree.pop("hydra")
    return choices, set(_dotted(tree))


def _dotted(node: dict, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")


def _groups() -> list[str]:
    return [f.name for f in files("ddiff.conf").iterdir() if f.is_dir() and f.name[0] not in "._"]


def _has_option(group: str, choice: str, name: str) -> bool:
    text = (files("ddiff.conf") / group / f"{choice}.yaml").read_text(encoding="utf-8")
    return bool(re.search(rf"^{re.escape(name)}:", text, re.M))


def config_dir(argv: list[str]) -> Path | None:
    """The folder of --config-dir=DIR, --config-dir DIR or -cd DIR."""
    for word, following in itertools.pairwise([*argv, ""]):
        name, _, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            return Path(value or following)
    return None

"""Sweeps (`-m`): a job that fails does not end the others, and a sweep that is given again goes on
where it was left."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ddiff.system.errors import ConfigError, DdiffError, Stopped
from ddiff.system.files import lock, natural

if TYPE_CHECKING:
    from filelock import BaseFileLock

FAILURE = "failure.txt"  # in a job's directory: why it failed


class JobFailed(DdiffError):
    """A job's failure, in one line that names the job and its options."""

    def __init__(self, message: str, exit_status: int, sweep: Path) -> None:
        super().__init__(message)
        self.exit_status, self.sweep = exit_status, sweep

    def __reduce__(self) -> tuple:  # launchers send it from other processes
        return JobFailed, (str(self), self.exit_status, self.sweep)


def job(main: Callable[[DictConfig], Any], cfg: DictConfig, config_name: str) -> Any:
    """Run a job of a sweep and return its result.

    A failure is printed, noted in the job's directory and raised as JobFailed, after which the
    sweep goes on. A signal ends the sweep.
    """
    from ddiff.config.shell import explain, fail

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    note = folder / FAILURE
    note.unlink(missing_ok=True)
    try:
        return main(cfg)
    except Stopped as stopped:
        fail(str(stopped), stopped.exit_status)
    except Exception as error:
        reason, status = explain(error, config_name)
        options = " ".join(varied(Path(hydra.sweep.dir), list(hydra.overrides.task)))
        line = " ".join(f"job {hydra.job.num} ({options}): {reason}".split())
        print(f"ddiff: {line}", file=sys.stderr)
        note.write_text(line + "\n")
        raise JobFailed(line, status, Path(hydra.sweep.dir)) from None


def overrides_of_command() -> list[str]:
    """The options of this command, or of this job of a sweep, as they were written."""
    return list(HydraConfig.get().overrides.task)


def job_folder() -> Path | None:
    """The directory of this job of a sweep; None outside a sweep."""
    hydra = HydraConfig.get()
    return Path(hydra.runtime.output_dir) if hydra.mode == RunMode.MULTIRUN else None


def job_number() -> int:
    return HydraConfig.get().job.num


def varied(folder: Path, overrides: list[str]) -> list[str]:
    """Those of a job's options in which the sweep's jobs differ; all where that is not known."""
    fixed = {o.key_or_group for o in _parsed(_overrides(folder)) if not o.is_sweep_override()}
    return [o for o in overrides if name_of(o) not in fixed] or overrides


def summary(folder: Path) -> str:
    """One line a failed job: its number, its options and the reason."""
    jobs = [path for path in folder.glob("[!.]*") if path.is_dir()]
    notes = sorted(folder.glob(f"*/{FAILURE}"), key=lambda path: natural(str(path)))
    lines = [f"{len(notes)} of {len(jobs)} jobs of {folder} failed:"]
    return "\n".join([*lines, *(note.read_text().strip() for note in notes)])


def name_of(override: str) -> str:
    """`+net.channels=[8]` -> `net.channels`; `data@data.of=digits` -> `data.of`, where it goes."""
    name, _, package = override.lstrip("+~").partition("=")[0].partition("@")
    return package if package and package[0] != "_" else name


def values_said(argv: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """The options of a command line, each with its values: several in a sweep."""
    parser = OverridesParser.create()
    for word in argv:
        if word.startswith("-") or "=" not in word:
            continue
        try:
            override = parser.parse_override(word)
            swept = override.is_sweep_override()
            values = list(override.sweep_iterator()) if swept else [override.value()]
        except (HydraException, ValueError, TypeError):
            continue  # Hydra will say what is wrong with it
        yield name_of(word), values


class Sweep(Callback):
    """Hydra's callback around a sweep: one process a sweep directory, and one sweep."""

    def __init__(self) -> None:
        self.lock: BaseFileLock | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State for the processes of a launcher: the lock stays with the sweep."""
        return {"lock": None}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        from ddiff.config.shell import (
            fail,  # Hydra swallows exceptions here, but lets SystemExit pass
        )

        try:
            folder = Path(str(config.hydra.sweep.dir))
            refuse_another(folder, list(config.hydra.overrides.task))
            self.lock = lock(folder, "the sweep")
        except DdiffError as error:
            fail(str(error), error.exit_status)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.lock:
            self.lock.release()


def refuse_another(folder: Path, overrides: list[str]) -> None:
    """Raise where the directory holds a sweep of other options: its jobs' numbers mean others."""
    earlier = _overrides(folder)
    if earlier and earlier != overrides:
        raise ConfigError(
            f"hydra.sweep.dir: {folder} holds another sweep ({' '.join(earlier)}); "
            "give the same options to go on with it, or another directory"
        )


def _overrides(folder: Path) -> list[str]:
    """The options that the sweep of this directory was given; none where there is none."""
    file = folder / "multirun.yaml"
    if not file.is_file():
        return []
    return list(OmegaConf.select(OmegaConf.load(file), "hydra.overrides.task", default=[]))


def _parsed(overrides: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(overrides)

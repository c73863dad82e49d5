"""Files that appear under their final name complete, or not at all, and files that can be read."""

import json
import os
import platform
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ddiff.system.errors import ConfigError, DdiffError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"  # in a folder that one process at a time may write


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """An open file beside `path` that takes its name when the block ends well."""
    part = path.with_name(f".{path.name}.part")
    text = None if "b" in mode else "utf-8"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, mode, encoding=text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DdiffError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def check_outputs(
    paths: Iterable[Path], overwrite: bool, instead: str = "give another out="
) -> None:
    """Raise before the work for what could not be written after it, or would replace a file.

    A place that cannot be written to is a DdiffError; a folder of that name is a ConfigError, and
    so is a file that exists already, unless `overwrite`: `instead` says how else to go on. Nothing
    is made on the disk.
    """
    if not isinstance(overwrite, bool):
        raise ConfigError(f"overwrite: {overwrite!r} is not true or false")
    paths = list(paths)
    there = [path for path in paths if _exists(path)]
    for path in there:
        if path.is_dir():
            raise ConfigError(f"out: {path} is a folder; give the name of a file")
    if there and not overwrite:
        more = f" (and {len(there) - 1} more of its files)" if len(there) > 1 else ""
        raise ConfigError(
            f"{there[0]} exists already{more}; {instead}, or overwrite=true to replace it"
        )
    for folder in dict.fromkeys(existing_parent(path) for path in paths):
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise DdiffError(f"cannot write {paths[0]}: {error.strerror or error}") from error


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists: the others are made when the file is written."""
    return next(folder for folder in path.absolute().parents if folder.exists())


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except OSError as error:  # a name that is too long
        raise DdiffError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    with replacing(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; {} where there is none or it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_plan(path: str) -> dict[str, Any]:
    """The plan in a file of `python -m ddiff.plan`, as `diffusion.plans.learned` takes it.

    Raises ConfigError if there is no such file, and DdiffError if it holds no plan.
    """
    try:
        found = json.loads(regular(Path(path)).read_text())["plan"]
        return {**found, "path": path}
    except DdiffError as error:
        if Path(path).exists():
            raise
        message = f"solver.path: there is no {path}; python -m ddiff.plan writes one"
        raise ConfigError(message) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DdiffError(f"solver.path: {path} is not a file of ddiff.plan") from error


def regular(path: Path) -> Path:
    """`path`, where it is a file or a link to one. To open a pipe would wait for its other end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DdiffError(f"cannot read {path}: {why}") from error
    if stat.S_ISREG(mode):
        return path
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    raise DdiffError(
        f"cannot read {path}: it is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file"
    )


def natural(name: str) -> list[int | str]:
    """A key to sort by: step_9 comes before step_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def lock(folder: Path, what: str) -> "BaseFileLock":
    """This process's claim on a folder, taken now; `release()` or the end of the process, however
    it ends, gives it back. Raises where another process holds it."""
    from filelock import FileLock, Timeout

    file = folder / LOCK
    holder = FileLock(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder.acquire(timeout=0)
        file.write_text(f"process {os.getpid()} on {platform.node()}\n")
    except Timeout:
        by = file.read_text().strip() or "another process"
        raise DdiffError(f"{what} {folder} is in use by {by} ({file})") from None
    except OSError as error:
        raise DdiffError(f"cannot write in {folder}: {error.strerror or error}") from error
    return holder


def cache_folder(name: str) -> Path:
    """The folder of this name in the user's cache, or in DDIFF_CACHE."""
    if cache := os.environ.get("DDIFF_CACHE"):
        return Path(cache) / name
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ddiff" / name

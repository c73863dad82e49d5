"""Native kernels are built where they run, once: kernels/<name>/<name>.cpp or .cu -> a library.

A library in the cache ends with a seal, the hash of its content and of everything it was built
from, so a truncated, altered or foreign file is built again, not loaded.
"""

import ctypes
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from ddiff.system.errors import DdiffError, KernelError
from ddiff.system.files import cache_folder, replacing

from . import compilers
from .compilers import Device

ROOT = Path(__file__).parent

NINJA_FILE = """\
rule run
  command = $command
build kernel.o: run {source}
  command = {compile}
  pool = console
build kernel.so: run kernel.o
  command = {link}
  pool = console
"""  # in the console's pool a compiler stays in ninja's process group, and dies with it


@dataclass(frozen=True)
class Library:
    path: Path
    built_in: float | None  # seconds; None where it was in the cache


@functools.cache
def load(name: str, device: Device) -> ctypes.CDLL:
    """The library of kernels/<name>, built where it is not in the cache.

    Raises KernelError where a compiler, a GPU or the source is missing, or the build fails.
    """
    return opened(library(ROOT / name, device))


def opened(found: Library) -> ctypes.CDLL:
    """OpenMP is left undefined in the library: torch's, already in the process, serves it."""
    try:
        return ctypes.CDLL(str(found.path))
    except OSError as error:
        if "__kmpc_" in str(error):  # what clang's -fopenmp calls
            raise KernelError(
                "clang's OpenMP is LLVM's, and the torch here brings GNU's; use g++ (CXX=g++)"
            ) from error
        raise KernelError(f"{found.path} does not load: {error}") from error


def library(folder: Path, device: Device) -> Library:
    """Finds the library of the operation in `folder` in the cache, or builds it."""
    source = folder / f"{folder.name}{compilers.SUFFIX[device]}"
    if not source.is_file():
        raise KernelError(f"{folder.name} has no {device} version: there is no {source}")
    command = compilers.compiler(device)
    compile_ = [*command, *_flags(folder, device), "-c", str(source), "-o", "kernel.o"]
    link = [*command, "-shared", "kernel.o", "-o", "kernel.so"]
    key = _key(source, [compile_, link, compilers.version(command)])
    path = cache_folder("kernels") / f"{folder.name}-{device}-{key[:16]}.so"
    if _is_sealed(path, key):
        return Library(path, None)
    limit = compilers.time_limit()
    with _lock(path.with_suffix(".lock"), limit):
        if _is_sealed(path, key):  # another process was quicker
            return Library(path, None)
        started = time.perf_counter()
        content = _build(source, compile_, link, limit)
        try:
            with replacing(path) as file:
                file.write(content + _seal(content, key))
        except DdiffError as error:
            raise KernelError(str(error)) from error
        return Library(path, time.perf_counter() - started)


def _flags(folder: Path, device: Device) -> list[str]:
    include = f"-I{folder.parent / 'include'}"
    if device == "cpu":
        return [*compilers.flags(device), include]
    if not torch.cuda.is_available():
        raise KernelError("device cuda: torch finds no NVIDIA GPU here; use device cpu")
    count = torch.cuda.device_count()
    found = sorted({torch.cuda.get_device_capability(i) for i in range(count)})
    gencode = [option for capability in found for option in compilers.gencode(capability)]
    return [*compilers.flags(device), *gencode, include]


def _key(source: Path, tools: list) -> str:
    """A hash of all that the library depends on."""
    headers = [*source.parent.glob("*.h"), *(source.parent.parent / "include").glob("*.h")]
    files = {str(path): path.read_text() for path in [source, *sorted(headers)]}
    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0] if info.exists() else ""
    # what -march=native depends on
    named = re.findall(r"^(?:cpu family|model|flags|Features|CPU part)\s*:.*", first, re.M)
    processor = [platform.machine(), *named]
    world = [files, tools, NINJA_FILE, torch.__version__, platform.libc_ver(), processor]
    return hashlib.sha256(json.dumps(world).encode()).hexdigest()


def _seal(content: bytes, key: str) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _is_sealed(path: Path, key: str) -> bool:
    """Loading a truncated library would kill the process (SIGBUS), so this reads it first."""
    content = path.read_bytes() if path.exists() else b""
    return content[-32:] == _seal(content[:-32], key)


def _build(source: Path, compile_: list[str], link: list[str], limit: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="ddiff-") as name:
        folder = Path(name)
        text = NINJA_FILE.format(
            source=re.sub(r"([$ :])", r"$\1", str(source)),
            compile=shlex.join(compile_).replace("$", "$$"),
            link=shlex.join(link).replace("$", "$$"),
        )
        (folder / "build.ninja").write_text(text)
        status, output = compilers.run([compilers.ninja(), "--quiet"], limit, folder)
        if status:
            raise KernelError(
                f"{source} does not compile: {compilers.first_errors(output)}; "
                f"the command: {shlex.join(compile_)}"
            )
        return (folder / "kernel.so").read_bytes()


@contextmanager
def _lock(path: Path, limit: float) -> Iterator[None]:
    """One builder at a time. The system frees the lock of a process that dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise KernelError(f"cannot write {path}: {error.strerror}; set DDIFF_CACHE") from error
    with file:
        end = time.monotonic() + limit
        while not _acquired(file):
            if time.monotonic() > end:
                raise KernelError(
                    f"process {path.read_text()} has held {path} for {limit:g} s; stop that "
                    "process, or let DDIFF_BUILD_TIMEOUT=SECONDS wait longer"
                )
            time.sleep(0.05)
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where the process forked


def _acquired(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

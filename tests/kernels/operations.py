"""A small operation of the tests' own, compilers that misbehave, processes that use them."""

import ctypes
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import torch

SOURCE = """\
#include <omp.h>
#include "factor.h"
#include "shared.h"

extern "C" void scale(float* values, long count) {
#pragma omp parallel for
  for (long i = 0; i < count; ++i) values[i] = FACTOR * values[i] + OFFSET;
}

extern "C" int threads() { return omp_get_max_threads(); }
"""


def write_operation(root: Path, name: str = "scale") -> Path:
    """values -> 3 values + 0.5"""
    folder = root / name
    folder.mkdir(parents=True)
    (root / "include").mkdir(exist_ok=True)
    (root / "include" / "shared.h").write_text("#define OFFSET 0.5f\n")
    (folder / "factor.h").write_text("#define FACTOR 3.0f\n")
    (folder / f"{name}.cpp").write_text(SOURCE)
    return folder


def scaled(library: ctypes.CDLL, values: torch.Tensor) -> torch.Tensor:
    result = values.clone()
    library.scale(ctypes.c_void_p(result.data_ptr()), ctypes.c_long(result.numel()))
    return result


def write_compiler(path: Path, *lines: str) -> Path:
    """A program that knows its version, then does what `lines` say, then is g++."""
    version = 'case "$*" in *--version) echo "a compiler 1.0"; exit 0;; esac'
    path.write_text("\n".join(["#!/bin/sh", version, *lines, 'exec g++ "$@"']) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def start(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.01)
    return path.read_text()

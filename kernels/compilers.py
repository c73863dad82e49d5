"""The programs that build kernels: where they are, their flags, and running them with an end."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ddiff.system.errors import KernelError

Device = Literal["cpu", "cuda"]

SUFFIX: Mapping[Device, str] = {"cpu": ".cpp", "cuda": ".cu"}
FLAGS: Mapping[Device, list[str]] = {
    "cpu": ["-O3", "-std=c++17", "-march=native", "-fopenmp", "-fPIC", "-Wall", "-Wextra"],
    "cuda": ["-O3", "-std=c++17", "-lineinfo", "-Xcompiler", "-fPIC"],
}
WERROR: Mapping[Device, list[str]] = {"cpu": ["-Werror"], "cuda": ["-Werror", "all-warnings"]}


def compiler(device: Device) -> list[str]:
    """The start of the compiler's command line."""
    if device == "cpu":
        return _program("CXX", ["g++", "clang++"], "install it (apt install g++)")
    nvcc = _program("NVCC", ["nvcc", "/usr/local/cuda/bin/nvcc"], "install the CUDA toolkit")
    return [*nvcc, "-ccbin", *compiler("cpu")] if os.environ.get("CXX") else nvcc


def flags(device: Device) -> list[str]:
    """Options of the compiler. Warnings are errors with DDIFF_WERROR=1 alone, as in CI: elsewhere
    the new warning of a new compiler must not take the kernels away."""
    return [*FLAGS[device], *(WERROR[device] if os.environ.get("DDIFF_WERROR") == "1" else [])]


def ninja() -> str:
    scripts = sysconfig.get_path("scripts")  # where pip puts it, also outside PATH
    found = shutil.which("ninja", path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if not found:
        raise KernelError(f"ninja is not in {scripts} and not in PATH; pip install ninja")
    return found


def version(command: list[str]) -> str:
    status, output = run([*command, "--version"], timeout=60)
    if status:
        raise KernelError(f"{' '.join(command)} --version fails: {first_errors(output)}")
    return output


def gencode(capability: tuple[int, int] | str) -> list[str]:
    """nvcc's option for one architecture: (9, 0) or 'sm_90'."""
    number = capability[3:] if isinstance(capability, str) else "{}{}".format(*capability)
    return ["-gencode", f"arch=compute_{number},code=sm_{number}"]


def time_limit() -> float:
    """Seconds that a compiler may take, and that a process waits for another's build."""
    text = os.environ.get("DDIFF_BUILD_TIMEOUT", "300")
    try:
        return float(text)
    except ValueError:
        raise KernelError(f"DDIFF_BUILD_TIMEOUT={text} is not a number of seconds") from None


def run(command: list[str], timeout: float, cwd: Path | None = None) -> tuple[int, str]:
    """Exit status and output; after `timeout` seconds it and what it started are killed."""
    try:
        process = subprocess.Popen(
            command, cwd=cwd, text=True, errors="replace", start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        raise KernelError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise KernelError(
                f"{' '.join(command)} did not end within {timeout:g} s and was stopped; "
                "DDIFF_BUILD_TIMEOUT=SECONDS allows it more"
            ) from None
        raise
    return process.returncode, output


def first_errors(output: str, count: int = 3) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(error|fatal)\b", line, re.I)]
    return "; ".join((errors or lines)[:count]) or "(it printed nothing)"


def _program(variable: str, choices: list[str], advice: str) -> list[str]:
    if asked := shlex.split(os.environ.get(variable, "")):
        if found := shutil.which(asked[0]):
            return [os.path.abspath(found), *asked[1:]]
        raise KernelError(
            f"{variable}={asked[0]}: there is no such program; correct it, or unset it"
        )
    for name in choices:
        if found := shutil.which(name):
            return [found]
    raise KernelError(f"{choices[0]} is not in PATH; {advice}, or set {variable}")

"""Compiles every .cu for many GPUs, needing none, and reads what ptxas says of each kernel."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddiff.system.errors import KernelError

from . import compilers

OLDEST = ["sm_75", "sm_80", "sm_89", "sm_90"]  # and all from sm_100 on


@dataclass(frozen=True)
class Usage:
    """Resources that one kernel uses on one GPU: bytes, except the registers of a thread."""

    source: str
    kernel: str
    gpu: str
    registers: int
    spills: int  # stores and loads
    stack: int
    shared: int  # static


def known_gpus() -> list[str]:
    """Those of OLDEST and every newer one that nvcc knows."""
    status, output = compilers.run([*compilers.compiler("cuda"), "--list-gpu-code"], timeout=60)
    known = re.findall(r"^sm_\d+$", output, re.M)
    if status or not set(OLDEST) <= set(known):
        raise KernelError(
            f"nvcc must know {', '.join(OLDEST)}; it answers: {' '.join(output.split())}"
        )
    newer = sorted((gpu for gpu in known if int(gpu[3:]) >= 100), key=lambda gpu: int(gpu[3:]))
    return OLDEST + newer


def nvcc_release() -> str:
    output = compilers.version(compilers.compiler("cuda"))
    return release[1] if (release := re.search(r"release \S+ (\S+)", output)) else output


def compiled(source: Path, gpus: Sequence[str]) -> list[Usage]:
    """Every kernel for every GPU. Raises KernelError where nvcc refuses or warns."""
    options = [*compilers.FLAGS["cuda"], *compilers.WERROR["cuda"], "-Xptxas", "-v", "-t", "2"]
    options += [f"-I{source.parent.parent / 'include'}"]
    options += [option for gpu in gpus for option in compilers.gencode(gpu)]
    with tempfile.TemporaryDirectory(prefix="ddiff-") as name:
        made = ["-c", str(source), "-o", f"{name}/kernel.o"]
        command = [*compilers.compiler("cuda"), *options, *made]
        status, output = compilers.run(command, compilers.time_limit())
    if status:
        raise KernelError(f"{source} does not compile: {compilers.first_errors(output)}")
    return sorted(parse(output, source.name), key=lambda use: (use.kernel, int(use.gpu[3:])))


def parse(output: str, source: str) -> Iterator[Usage]:
    """Reads the lines of `ptxas -v`."""
    pattern = (
        r"Compiling entry function '(?P<kernel>\S+)' for '(?P<gpu>\S+)'\n"
        r".*Function properties for .*\n"
        r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads\n"
        r".*Used (?P<registers>\d+) registers(?P<rest>.*)"
    )
    found = list(re.finditer(pattern, output))
    if len(found) != output.count("Compiling entry function"):
        raise KernelError(f"{source}: cannot read what this ptxas says of its kernels")
    names = _plain([match["kernel"] for match in found])
    for match, name in zip(found, names, strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        yield Usage(
            source=source,
            kernel=name,
            gpu=match["gpu"],
            registers=int(match["registers"]),
            spills=int(match["stores"]) + int(match["loads"]),
            stack=int(match["stack"]),
            shared=int(shared[1]) if shared else 0,
        )


def _plain(mangled: list[str]) -> list[str]:
    """Return the kernels' names as in the source, without arguments.

    Without c++filt they stay mangled.
    """
    if not mangled or not (filt := shutil.which("c++filt")):
        return mangled
    _, output = compilers.run([filt, "--no-params", *mangled], timeout=60)
    return [re.sub(r"\(anonymous namespace\)::|\bddiff::", "", x) for x in output.splitlines()]

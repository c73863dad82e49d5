"""CUDA's execution model on the CPU: the .cu files as they are, run and watched. What it finds and
what it cannot find is in docs/emulation.md."""

import ctypes
import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ddiff.kernels import building, calling, compilers
from ddiff.system.files import cache_folder, replacing

HERE = Path(__file__).parent
ORDERS = ("forward", "reverse", "shuffled")
FLAGS = ["-O1", "-std=c++17", "-fPIC", "-U_FORTIFY_SOURCE"]
WATCHED = ["-fsanitize=thread,alignment", "-D__CUDACC__", "-D__CUDA_ARCH__=900", "-include",
           "cuda_runtime.h", "-Wno-unknown-pragmas"]  # fmt: skip
GRAMMAR = (  # what C++ cannot read, and what it reads instead
    (r"([\w:]+(?:<[^<>;]*>)?)<<<(.*?)>>>\(", r'::emulation::launch("\1", \1, \2)('),
    (r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = ::emulation::shared<\1>();"),
)


class Found(AssertionError):
    """An error for what CUDA forbids and a kernel did."""


class Emulated(calling.Gpu):
    """A GPU whose memory is the CPU's. It raises Found where a call did what CUDA forbids.

    - `order`: of the blocks, and of the threads between two barriers; one of ORDERS.
    - `processors`: multiprocessors that it says it has.
    - `planted`: faults, as pairs: the first such piece of a .cu file, and what takes its place.
    """

    def __init__(
        self,
        order: str = "forward",
        processors: int = 132,
        planted: Sequence[tuple[str, str]] = (),
    ):
        self.order, self.processors, self.planted = ORDERS.index(order), processors, planted
        self.libraries: dict[str, ctypes.CDLL] = {}

    def library(self, name: str) -> ctypes.CDLL:
        if name not in self.libraries:
            folder = building.ROOT / name
            source = (folder / f"{name}.cu").read_text()
            for good, bad in self.planted:
                assert good in source
                source = source.replace(good, bad, 1)
            self.libraries[name] = built(folder, source)
            self.libraries[name].emulation_found.restype = ctypes.c_char_p
            self.libraries[name].emulation_order(self.order)
        return self.libraries[name]

    @contextmanager
    def guard(self, device: torch.device) -> Iterator[None]:
        for library in self.libraries.values():
            library.emulation_order(self.order)
        yield
        found = b"".join(library.emulation_found() for library in self.libraries.values())
        if found:
            raise Found(found.decode().strip())

    def stream(self, device: torch.device) -> int:
        return 0

    def multiprocessors(self, device: torch.device) -> int:
        return self.processors

    @property
    def launches(self) -> int:
        """Kernels that were launched, by all that share its libraries."""
        return sum(library.emulation_launches() for library in self.libraries.values())


def built(folder: Path, source: str) -> ctypes.CDLL:
    """The library of an operation whose CUDA is `source`; built once."""
    own = [*HERE.glob("*.cpp"), *HERE.glob("include/*.h"), Path(__file__)]
    headers = [*folder.glob("*.h"), *folder.parent.glob("include/*.h")]
    parts = [source, *(path.read_text() for path in sorted([*own, *headers]))]
    key = hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
    path = cache_folder("emulated") / f"{folder.name}-{key}.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place, replacing(path) as file:
            file.write(_compiled(folder, translated(source), Path(place)))
    return ctypes.CDLL(str(path))


def translated(source: str) -> str:
    for pattern, replacement in GRAMMAR:
        source = re.sub(pattern, replacement, source, flags=re.DOTALL)
    return source


def _compiled(folder: Path, source: str, place: Path) -> bytes:
    (place / "kernel.cpp").write_text(source)
    compiler = [*compilers.compiler("cpu"), *FLAGS]
    includes = [f"-I{path}" for path in (HERE / "include", folder, folder.parent / "include")]
    for words in (
        [*WATCHED, *includes, "-c", "kernel.cpp", "-o", "kernel.o"],
        ["-shared", "-Wl,-Bsymbolic", "kernel.o", str(HERE / "emulator.cpp"), "-o", "kernel.so"],
    ):
        status, output = compilers.run([*compiler, *words], timeout=300, cwd=place)
        if status:
            raise RuntimeError(f"{folder.name} does not compile for the emulation:\n{output}")
    return (place / "kernel.so").read_bytes()

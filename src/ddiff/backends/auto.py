"""The backend where none is named: what measures fastest and runs without being asked for."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch

from ddiff.backends.eager import Eager
from ddiff.backends.execution import Backend
from ddiff.backends.native import Native
from ddiff.kernels.building import load
from ddiff.system.console import console, say_once
from ddiff.system.errors import KernelError

ON_A_GPU = (
    "backend=auto: eager, each sampling step a replayed CUDA graph; "
    "backend.graph=false, backend=compiled or backend=native change that"
)
KERNELS = ("group_norm_silu", "solver_step", "winograd")


@dataclass(frozen=True)
class Auto:
    """Native on a CPU where its kernels build, eager elsewhere; on a GPU its sampling steps are a
    CUDA graph. `graph` None: where there is a GPU, and the net can be captured."""

    graph: bool | None = None

    def on(self, device: torch.device) -> Backend:
        if device.type == "cpu" and _native_builds():
            return Native(bool(self.graph))
        if self.graph is None and device.type == "cuda":
            say_once(ON_A_GPU)
            return Eager("try")
        return Eager(bool(self.graph))


@cache
def _native_builds() -> bool:
    """Builds what is not in the cache; says why where that cannot be done."""
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: load(name, "cpu"), KERNELS))
    except KernelError as error:
        console.print(f"backend=eager: the faster kernels cannot be built here: {error}")
        return False
    return True

"""Use of the machine by a training: processor, memory, disk and GPU.

Reading it takes microseconds and never waits for a GPU.
"""

import ctypes
import gc
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from ddiff.system.devices import cpu_count
from ddiff.system.errors import DdiffError

MB, GB = 2**20, 2**30
STATUS = Path("/proc/self/status")  # Linux only
RESTART = Path("/proc/self/clear_refs")  # a 5 written here sets VmHWM to VmRSS


class CpuUse:
    """Percent of the cores it may use that this process kept busy since the last call. Processes
    of a loader are not in it."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.process.cpu_percent()  # the first call starts the count and returns 0

    def __call__(self) -> float:
        return self.process.cpu_percent() / cpu_count()


def process_memory() -> dict[str, float]:
    """Resident memory of this process in MiB: now and at its peak."""
    now = psutil.Process().memory_info().rss
    return {"process_mb": now / MB, "process_peak_mb": peak_memory() / MB}


def peak_memory() -> int:
    """Peak resident memory of this process in bytes, on Linux since `restart_peak`."""
    if STATUS.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return int(found[1]) * 2**10  # ru_maxrss also counts what ran in this process before Python
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


class PeakMemory:
    """The peak of memory from here on: of torch's allocator on a GPU, of the whole process else.

    A sweep trains several runs in one process. What an earlier one freed is given back first, and
    the system's count starts anew, so that each run has a peak of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        give_back_freed(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.meaning = "of torch's allocator on the GPU, in this run"
        elif restart_peak():
            self.meaning = "resident memory of the process, in this run"
        else:
            self.meaning = "resident memory of the process since it started, earlier runs included"

    def mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / MB
        return peak_memory() / MB


def give_back_freed(device: torch.device) -> None:
    """Returns freed memory to the system, so that the next rise shows."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def restart_peak() -> bool:
    """Restarts the system's count of this process's peak; False where only Linux could."""
    try:
        RESTART.write_text("5")
    except OSError:
        return False
    return True


def disk(folder: Path) -> dict[str, float]:
    """Free space where the folder is [GiB], and the size of its files [MiB]."""
    size = 0
    for at, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):  # of another process, renamed meanwhile
                size += os.stat(os.path.join(at, name)).st_size
    return {"disk_free_gb": shutil.disk_usage(folder).free / GB, "run_mb": size / MB}


def allocator(device: torch.device) -> dict[str, float]:
    """Memory that torch has allocated and reserved on a GPU, and the peak of the former, in MiB."""
    stats = torch.cuda.memory_stats_as_nested_dict(device)
    allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
    return {
        "gpu_allocated_mb": allocated["current"] / MB,
        "gpu_reserved_mb": reserved["current"] / MB,
        "gpu_peak_mb": allocated["peak"] / MB,
    }


class Nvml:
    """Use, power and temperature of a GPU, by NVIDIA's own library. `uuid` as torch gives it.

    Raises DdiffError where there is no such library or GPU, or the GPU is divided. A reading that
    the GPU refuses is left out from then on, and `say` is told why.
    """

    def __init__(self, uuid: str, say: Callable[[str], None]) -> None:
        self.say, core = say, pynvml.NVML_TEMPERATURE_GPU  # the sensor
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise DdiffError(f"NVML cannot be loaded ({error})") from error
        self.gpu = _nvml("nvmlDeviceGetHandleByUUID", f"GPU-{uuid.removeprefix('GPU-')}")
        with suppress(pynvml.NVMLError):  # a GPU that cannot be divided refuses this question
            if pynvml.nvmlDeviceGetMigMode(self.gpu)[0]:
                raise DdiffError("the GPU is divided (MIG), and NVML knows only its parts together")
        self.readings: dict[str, Callable[[], float]] = {
            "gpu_use_percent": lambda: _nvml("nvmlDeviceGetUtilizationRates", self.gpu).gpu,
            "gpu_power_watts": lambda: _nvml("nvmlDeviceGetPowerUsage", self.gpu) / 1000,
            "gpu_celsius": lambda: _nvml("nvmlDeviceGetTemperature", self.gpu, core),
        }

    def __call__(self) -> dict[str, float]:
        found = {}
        for name, read in list(self.readings.items()):
            try:
                found[name] = read()
            except DdiffError as error:
                del self.readings[name]
                self.say(f"{name} is left out: {error}")
        return found


def _nvml(function: str, *arguments: object) -> Any:
    """The result of a function of NVML; DdiffError with NVML's reason where it refuses."""
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as error:
        raise DdiffError(f"NVML's {function} says: {error}") from error

"""What a training takes of the machine. Reading it takes microseconds and never waits for a GPU."""

import ctypes
import gc
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
        self.cores = cpu_count()
        self.since = time.perf_counter(), time.process_time()

    def __call__(self) -> float:
        wall, busy = self.since
        self.since = time.perf_counter(), time.process_time()
        return 100 * (self.since[1] - busy) / ((self.since[0] - wall) * self.cores)


def process_memory() -> dict[str, float]:
    """Resident memory of this process in MiB: now, where the system says it, and at its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process_peak_mb": peak / (MB if sys.platform == "darwin" else 2**10)}
    if not STATUS.is_file():
        return found
    kilobytes = dict(line.split()[:2] for line in STATUS.read_text().splitlines() if " kB" in line)
    # maxrss also counts what ran in this process before Python
    names = {"process_mb": "VmRSS:", "process_peak_mb": "VmHWM:"}
    return found | {
        name: int(kilobytes[key]) / 2**10 for name, key in names.items() if key in kilobytes
    }


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
        return process_memory()["process_peak_mb"]


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
    """What is free where the folder is, and the size of its files."""
    size = 0
    for at, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):  # of another process, renamed meanwhile
                size += os.stat(os.path.join(at, name)).st_size
    return {"disk_free_gb": shutil.disk_usage(folder).free / GB, "run_mb": size / MB}


def allocator(device: torch.device) -> dict[str, float]:
    """What torch has allocated and reserved on a GPU, and the peak of the former, in MiB."""
    stats = torch.cuda.memory_stats_as_nested_dict(device)
    allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
    return {
        "gpu_allocated_mb": allocated["current"] / MB,
        "gpu_reserved_mb": reserved["current"] / MB,
        "gpu_peak_mb": allocated["peak"] / MB,
    }


class Utilization(ctypes.Structure):
    """nvmlUtilization_t: percents of the last sample period (a sixth of a second to a second)."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Nvml:
    """Use, power and temperature of a GPU, by NVIDIA's own library. `uuid` as torch gives it.

    Raises DdiffError where there is no such library or GPU, or the GPU is divided. A reading that
    the GPU refuses is left out from then on, and `say` is told why.
    """

    def __init__(
        self, uuid: str, say: Callable[[str], None], library: str = "libnvidia-ml.so.1"
    ) -> None:
        try:
            self.nvml = ctypes.CDLL(library)
        except OSError as error:
            raise DdiffError(f"NVML cannot be loaded ({error})") from error
        self.nvml.nvmlErrorString.restype = ctypes.c_char_p
        self.gpu, self.say = ctypes.c_void_p(), say
        self._call("nvmlInit_v2")
        name = f"GPU-{uuid.removeprefix('GPU-')}".encode()
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(name), ctypes.byref(self.gpu))
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        both = ctypes.byref(current), ctypes.byref(pending)
        if self.nvml.nvmlDeviceGetMigMode(self.gpu, *both) == 0 and current.value:
            raise DdiffError("the GPU is divided (MIG), and NVML knows only its parts together")
        self.readings: dict[str, Callable[[], float]] = {
            "gpu_use_percent": self._use,
            "gpu_power_watts": lambda: self._number("nvmlDeviceGetPowerUsage") / 1000,
            "gpu_celsius": lambda: self._number("nvmlDeviceGetTemperature", ctypes.c_uint(0)),
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

    def _use(self) -> float:
        use = Utilization()
        self._call("nvmlDeviceGetUtilizationRates", self.gpu, ctypes.byref(use))
        return use.gpu

    def _number(self, function: str, *arguments: ctypes.c_uint) -> float:
        value = ctypes.c_uint()
        self._call(function, self.gpu, *arguments, ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        if status := getattr(self.nvml, function)(*arguments):
            reason = self.nvml.nvmlErrorString(status).decode()
            raise DdiffError(f"NVML's {function} says: {reason}")

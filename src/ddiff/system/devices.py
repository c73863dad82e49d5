"""The device at hand."""

import ctypes
import os
import platform
from typing import TYPE_CHECKING, Any

from ddiff.system.errors import ConfigError

if TYPE_CHECKING:
    import torch


def device_for(accelerator: str) -> "torch.device":
    """The device that trainer.accelerator (auto, cpu, gpu, cuda, mps) means on this machine."""
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    if accelerator in ("auto", "cpu"):
        return torch.device("cpu")
    if accelerator in ("gpu", "cuda", "mps"):
        raise ConfigError(f"trainer.accelerator: there is no {accelerator} here; use trainer=cpu")
    raise ConfigError(f"trainer.accelerator: {accelerator!r} is not one of auto, cpu, gpu, mps")


def cpu_count() -> int:
    """Count the cores that this process may use, where the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def by_device(accelerator: str, cpu: Any, gpu: Any) -> Any:
    """${by_device:${trainer.accelerator},A,B} in a config: A on a CPU, B on a GPU."""
    if accelerator == "auto":
        accelerator = device_for("auto").type
    return cpu if accelerator == "cpu" else gpu


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Keep memory that a step frees, so that the next step takes it without a page fault.

    glibc maps large blocks one by one, and gives them and the top of its heap back to the system,
    which clears each page again when it is next touched. On other systems this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)

"""Checks of the tensors that kernels take, and calls of their libraries on a CPU or a GPU."""

import functools
from contextlib import AbstractContextManager
from ctypes import CDLL, c_bool, c_char_p, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

from .building import load

KINDS = {"p": c_void_p, "s": c_char_p, "q": c_int64, "i": c_int, "?": c_bool, "f": c_float}
NEWER = "; the CUDA toolkit that built it is newer than the driver: update the driver, or set NVCC"
ADVICE = {35: NEWER, 222: NEWER}


def require(
    what: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    """Raises KernelError, which says how `what` ("solver_step: x") is not what it must be."""
    fits = tensor.dtype == dtype and tensor.shape == shape and tensor.device == device
    if not fits or not tensor.is_contiguous():
        kind = str(dtype).removeprefix("torch.")
        raise KernelError(
            f"{what} is {words(tensor)}; it must be {kind} {list(shape)} on {device}, contiguous"
        )


def words(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    rest = "" if tensor.is_contiguous() else ", not contiguous"
    return f"{kind} {list(tensor.shape)} on {tensor.device}{rest}"


class Gpu:
    """Calls of a CUDA library: on the device of a tensor, in its current stream."""

    def library(self, name: str) -> CDLL:
        return load(name, "cuda")

    def guard(self, device: torch.device) -> AbstractContextManager[object]:
        return torch.cuda.device(device)

    def stream(self, device: torch.device) -> int:
        return torch.cuda.current_stream(device).cuda_stream

    def multiprocessors(self, device: torch.device) -> int:
        return torch.cuda.get_device_properties(device).multi_processor_count


GPU = Gpu()


def gpu_of(like: Tensor) -> Gpu | None:
    """The GPU that `like` is on; None for the CPU."""
    return None if like.is_cpu else GPU


def call(library: str, name: str, kinds: str, like: Tensor, *values: object) -> int:
    """Runs `ddiff_<name>` of a library where `like` is; returns what it returned. `kinds` has a
    letter of KINDS for each of the values.

    Raises KernelError where CUDA reports an error.
    """
    gpu = gpu_of(like)
    if gpu is None:
        return _function(None, library, name, kinds)(*values)
    with gpu.guard(like.device):
        run = _function(gpu, library, name, kinds + "p")
        status = run(*values, gpu.stream(like.device))
    if status:
        said = _function(gpu, library, "error_text", "i")(status).decode()
        raise KernelError(f"{name}: {said}{ADVICE.get(status, '')} (CUDA error {status}), "
                          f"for {words(like)}")  # fmt: skip
    return status


@functools.cache
def _function(gpu: Gpu | None, library: str, name: str, kinds: str) -> Any:
    loaded = load(library, "cpu") if gpu is None else gpu.library(library)
    found = loaded[f"ddiff_{name}"]
    found.argtypes = [KINDS[kind] for kind in kinds]
    found.restype = c_char_p if name == "error_text" else c_int
    return found

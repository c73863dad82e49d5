"""Checks of the tensors of philox, solver_step and add_noise, and calls of their libraries."""

import functools
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

from .building import load
from .compilers import Device

KINDS = {"p": c_void_p, "s": c_char_p, "q": c_int64, "i": c_int, "?": c_bool, "f": c_float}


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


def call(library: str, name: str, kinds: str, like: Tensor, *values: object) -> int:
    """Runs `ddiff_<name>` of a library where `like` is, on a GPU in the current stream; returns
    what it returned. `kinds` has a letter of KINDS for each of the values.

    Raises KernelError where CUDA reports an error.
    """
    if like.is_cpu:
        return function(library, name, kinds, "cpu")(*values)
    with torch.cuda.device(like.device):
        stream = torch.cuda.current_stream().cuda_stream
        status = function(library, name, kinds + "p", "cuda")(*values, stream)
    if status:
        raise KernelError(f"{name}: CUDA error {status} for {words(like)}")
    return status


@functools.cache
def function(library: str, name: str, kinds: str, device: Device) -> Any:
    found = load(library, device)[f"ddiff_{name}"]
    found.argtypes = [KINDS[kind] for kind in kinds]
    return found

"""Philox 4x32-10: noise that depends on (key, sample, step, place), never on history or batch."""

import functools
import math
from collections.abc import Iterator
from ctypes import c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

from ..building import load
from ..compilers import Device
from .checks import check, unlike
from .reference import normal, words

__all__ = ["native_normal", "normal", "words"]

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define("normal(Tensor samples, Tensor step, int key, int[] shape) -> Tensor")


def native_normal(key: int, samples: Tensor, step: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`normal` in one pass. samples [B] and step [] are int64 on the device of the result.

    Raises KernelError where they are not.
    """
    return torch.ops.ddiff.normal(samples, step, key, shape)


def _empty(samples: Tensor, step: Tensor, key: int, shape: tuple[int, ...]) -> Tensor:
    check("normal", _mistakes(samples, step))
    return torch.empty(len(samples), *shape, device=samples.device)


def _native(samples: Tensor, step: Tensor, key: int, shape: tuple[int, ...]) -> Tensor:
    out = _empty(samples, step, key, shape)
    if not out.numel():
        return out
    pointers = samples.data_ptr(), step.data_ptr()
    values = (*pointers, key, len(samples), math.prod(shape), out.data_ptr())
    if samples.is_cpu:
        _function("cpu")(*values)
        return out
    with torch.cuda.device(samples.device):
        status = _function("cuda")(*values, torch.cuda.current_stream().cuda_stream)
    if status:
        raise KernelError(f"normal: CUDA error {status} for {list(out.shape)}")
    return out


def _mistakes(samples: Tensor, step: Tensor) -> Iterator[str]:
    shape = (samples.numel(),)
    yield from unlike("samples", samples, torch.int64, shape, samples.device)
    yield from unlike("step", step, torch.int64, (), samples.device)


@functools.cache
def _function(device: Device) -> Any:
    function = load("philox", device).ddiff_normal
    function.argtypes = [c_void_p] * 2 + [c_int64] * 3 + [c_void_p]
    function.argtypes += [c_void_p] if device == "cuda" else []
    function.restype = c_int if device == "cuda" else None
    return function


_library.impl("normal", _native, "CPU")
_library.impl("normal", _native, "CUDA")
torch.library.register_fake("ddiff::normal", _empty, lib=_library)

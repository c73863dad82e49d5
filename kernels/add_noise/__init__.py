"""Forward noising for training in one pass over memory, its noise made inside."""

import functools
from collections.abc import Iterator
from ctypes import c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from ddiff.errors import KernelError

from ..building import load
from ..compilers import Device
from ..philox.checks import check, unlike, words
from .reference import reference

__all__ = ["add_noise", "reference"]

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define(
    "add_noise(Tensor x_0, Tensor coefficients, Tensor samples, int key, int draw) "
    "-> (Tensor, Tensor)"
)


def add_noise(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    """x_t = alpha x_0 + sigma eps and target = e eps + s x_0, both like x_0 [B, *S], with
    eps = normal(key, samples, draw).

    coefficients [B, 4] float32 are alpha, sigma, e, s; samples [B] is int64; 0 <= draw < 2^32.
    Raises KernelError where shapes, types or devices do not fit.
    """
    return torch.ops.ddiff.add_noise(x_0, coefficients, samples, key, draw)


def _empty(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    check("add_noise", _mistakes(x_0, coefficients, samples, draw))
    return torch.empty_like(x_0), torch.empty_like(x_0)


def _native(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    x_t, target = _empty(x_0, coefficients, samples, key, draw)
    if not x_0.numel():
        return x_t, target
    pointers = x_0.data_ptr(), coefficients.data_ptr(), samples.data_ptr()
    outputs = x_t.data_ptr(), target.data_ptr()
    values = (*pointers, key, draw, *outputs, len(x_0), x_0.numel() // len(x_0))
    if x_0.is_cpu:
        _function("cpu")(*values)
        return x_t, target
    with torch.cuda.device(x_0.device):
        status = _function("cuda")(*values, torch.cuda.current_stream().cuda_stream)
    if status:
        raise KernelError(f"add_noise: CUDA error {status} for x_0 {words(x_0)}")
    return x_t, target


def _mistakes(x_0: Tensor, coefficients: Tensor, samples: Tensor, draw: int) -> Iterator[str]:
    yield from unlike("x_0", x_0, torch.float32, x_0.shape, x_0.device)
    yield from unlike("coefficients", coefficients, torch.float32, (len(x_0), 4), x_0.device)
    yield from unlike("samples", samples, torch.int64, (len(x_0),), x_0.device)
    if not 0 <= draw < 1 << 32:
        yield f"draw {draw} is not in 0..2^32 - 1"


@functools.cache
def _function(device: Device) -> Any:
    function = load("add_noise", device).ddiff_add_noise
    function.argtypes = [c_void_p] * 3 + [c_int64] * 2 + [c_void_p] * 2 + [c_int64] * 2
    function.argtypes += [c_void_p] if device == "cuda" else []
    function.restype = c_int if device == "cuda" else None
    return function


_library.impl("add_noise", _native, "CPU")
_library.impl("add_noise", _native, "CUDA")
torch.library.register_fake("ddiff::add_noise", _empty, lib=_library)

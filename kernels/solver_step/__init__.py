"""One step of a plan in one pass over memory: guidance, x_0, clamp, combination, fresh noise."""

import functools
import math
from collections.abc import Iterator
from ctypes import c_bool, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

from ..building import load
from ..compilers import Device
from ..philox.checks import check, unlike, words
from .reference import noise_reference, reference

__all__ = ["add_noise", "noise_reference", "reference", "solver_step"]

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define(
    "add_noise(Tensor x_0, Tensor coefficients, Tensor samples, int key, int draw) "
    "-> (Tensor, Tensor)"
)
_library.define(
    "solver_step(Tensor(a!) x, Tensor pred, Tensor(b!)? x_0, Tensor table, Tensor step, "
    "Tensor samples, int key, float? clamp, bool noisy) -> ()"
)


def solver_step(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    table: Tensor,
    step: Tensor,
    samples: Tensor,
    key: int,
    clamp: float | None,
    noisy: bool,
) -> None:
    """x [B, *S] becomes a x + b x_0' + c x_0 + d noise, and x_0 becomes
    x_0' = clamp(p x + q pred), with p, q, a, b, c, d, w = table[step].

    pred is [B, *S], or [2B, *S]: the predictions with labels, then those without, combined as
    (1 + w) labelled - w unlabelled. x_0 is read only where c is not 0; without it c counts
    as 0. noise = normal(key, samples, step + 1), where `noisy`. table [N, 7] is float32, step []
    and samples [B] are int64, all on the device of x.
    Raises KernelError where shapes, types or devices do not fit, and on the CPU where the table has
    no row `step`; on a GPU such a step does nothing.
    """
    torch.ops.ddiff.solver_step(x, pred, x_0, table, step, samples, key, clamp, noisy)


def _checked(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    table: Tensor,
    step: Tensor,
    samples: Tensor,
    key: int,
    clamp: float | None,
    noisy: bool,
) -> None:
    check("solver_step", _mistakes(x, pred, x_0, table, step, samples))


def _native(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    table: Tensor,
    step: Tensor,
    samples: Tensor,
    key: int,
    clamp: float | None,
    noisy: bool,
) -> None:
    check("solver_step", _mistakes(x, pred, x_0, table, step, samples))
    if not x.numel():
        return
    values = (
        *(x.data_ptr(), pred.data_ptr(), TYPES[pred.dtype], len(pred) != len(x)),
        *(None if x_0 is None else x_0.data_ptr(), table.data_ptr(), len(table)),
        *(step.data_ptr(), samples.data_ptr(), key),
        *(math.inf if clamp is None else clamp, noisy, len(x), x.numel() // len(x)),
    )
    if x.is_cpu:
        if _function("cpu")(*values):
            raise KernelError(f"solver_step: step {int(step)} is not in 0..{len(table) - 1}")
        return
    with torch.cuda.device(x.device):
        status = _function("cuda")(*values, torch.cuda.current_stream().cuda_stream)
    if status:
        raise KernelError(f"solver_step: CUDA error {status} for x {words(x)}")


def _mistakes(
    x: Tensor, pred: Tensor, x_0: Tensor | None, table: Tensor, step: Tensor, samples: Tensor
) -> Iterator[str]:
    yield from unlike("x", x, torch.float32, x.shape, x.device)
    batch = len(pred) if len(pred) == 2 * len(x) else len(x)
    dtype = pred.dtype if pred.dtype in TYPES else torch.float32
    yield from unlike("pred", pred, dtype, (batch, *x.shape[1:]), x.device)
    if x_0 is not None:
        yield from unlike("x_0", x_0, torch.float32, x.shape, x.device)
    yield from unlike("table", table, torch.float32, (len(table), 7), x.device)
    yield from unlike("step", step, torch.int64, (), x.device)
    yield from unlike("samples", samples, torch.int64, (len(x),), x.device)


@functools.cache
def _function(device: Device) -> Any:
    function = load("solver_step", device).ddiff_solver_step
    function.argtypes = [c_void_p, c_void_p, c_int, c_bool, c_void_p, c_void_p, c_int64]
    function.argtypes += [c_void_p, c_void_p, c_int64, c_float, c_bool, c_int64, c_int64]
    function.argtypes += [c_void_p] if device == "cuda" else []
    function.restype = c_int
    return function


_library.impl("solver_step", _native, "CPU")
_library.impl("solver_step", _native, "CUDA")
torch.library.register_fake("ddiff::solver_step", _checked, lib=_library)


def add_noise(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    """x_t = alpha x_0 + sigma eps and target = e eps + s x_0, both like x_0 [B, *S], with
    eps = normal(key, samples, draw).

    coefficients [B, 4] float32 are alpha, sigma, e, s; samples [B] is int64; 0 <= draw < 2^32.
    Raises KernelError where shapes, types or devices do not fit.
    """
    return torch.ops.ddiff.add_noise(x_0, coefficients, samples, key, draw)


def _noised_empty(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    check("add_noise", _noise_mistakes(x_0, coefficients, samples, draw))
    return torch.empty_like(x_0), torch.empty_like(x_0)


def _noised_native(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    x_t, target = _noised_empty(x_0, coefficients, samples, key, draw)
    if not x_0.numel():
        return x_t, target
    pointers = x_0.data_ptr(), coefficients.data_ptr(), samples.data_ptr()
    outputs = x_t.data_ptr(), target.data_ptr()
    values = (*pointers, key, draw, *outputs, len(x_0), x_0.numel() // len(x_0))
    if x_0.is_cpu:
        _noise_function("cpu")(*values)
        return x_t, target
    with torch.cuda.device(x_0.device):
        status = _noise_function("cuda")(*values, torch.cuda.current_stream().cuda_stream)
    if status:
        raise KernelError(f"add_noise: CUDA error {status} for x_0 {words(x_0)}")
    return x_t, target


def _noise_mistakes(x_0: Tensor, coefficients: Tensor, samples: Tensor, draw: int) -> Iterator[str]:
    yield from unlike("x_0", x_0, torch.float32, x_0.shape, x_0.device)
    yield from unlike("coefficients", coefficients, torch.float32, (len(x_0), 4), x_0.device)
    yield from unlike("samples", samples, torch.int64, (len(x_0),), x_0.device)
    if not 0 <= draw < 1 << 32:
        yield f"draw {draw} is not in 0..2^32 - 1"


@functools.cache
def _noise_function(device: Device) -> Any:
    function = load("solver_step", device).ddiff_add_noise
    function.argtypes = [c_void_p] * 3 + [c_int64] * 2 + [c_void_p] * 2 + [c_int64] * 2
    function.argtypes += [c_void_p] if device == "cuda" else []
    function.restype = c_int if device == "cuda" else None
    return function


_library.impl("add_noise", _noised_native, "CPU")
_library.impl("add_noise", _noised_native, "CUDA")
torch.library.register_fake("ddiff::add_noise", _noised_empty, lib=_library)

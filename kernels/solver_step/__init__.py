"""One step of a plan in one pass over memory: guidance, x_0, clamp, combination, fresh noise."""

import functools
import math
from collections.abc import Iterator
from ctypes import c_bool, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from ddiff.errors import KernelError

from ..building import load
from ..compilers import Device
from ..philox.checks import check, unlike, words
from .reference import reference

__all__ = ["reference", "solver_step"]

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define(
    "solver_step(Tensor(a!) x, Tensor pred, Tensor(b!)? x_0, Tensor table, Tensor step, "
    "Tensor samples, int key, float scale, float? clamp, bool noisy) -> ()"
)


def solver_step(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    table: Tensor,
    step: Tensor,
    samples: Tensor,
    key: int,
    scale: float,
    clamp: float | None,
    noisy: bool,
) -> None:
    """x [B, *S] becomes a x + b x_0' + c x_0 + d noise, and x_0 becomes
    x_0' = clamp(p x + q pred), with p, q, a, b, c, d = table[step].

    pred is [B, *S], or [2B, *S]: the predictions with labels, then those without, combined as
    (1 + scale) labelled - scale unlabelled. x_0 is read only where c is not 0; without it c counts
    as 0. noise = normal(key, samples, step + 1), where `noisy`. table [N, 6] is float32, step []
    and samples [B] are int64, all on the device of x.
    Raises KernelError where shapes, types or devices do not fit, and on the CPU where the table has
    no row `step`; on a GPU such a step does nothing.
    """
    torch.ops.ddiff.solver_step(x, pred, x_0, table, step, samples, key, scale, clamp, noisy)


def _checked(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    table: Tensor,
    step: Tensor,
    samples: Tensor,
    key: int,
    scale: float,
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
    scale: float,
    clamp: float | None,
    noisy: bool,
) -> None:
    check("solver_step", _mistakes(x, pred, x_0, table, step, samples))
    if not x.numel():
        return
    values = (
        *(x.data_ptr(), pred.data_ptr(), TYPES[pred.dtype], len(pred) != len(x)),
        *(None if x_0 is None else x_0.data_ptr(), table.data_ptr(), len(table)),
        *(step.data_ptr(), samples.data_ptr(), key, scale),
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
    yield from unlike("table", table, torch.float32, (len(table), 6), x.device)
    yield from unlike("step", step, torch.int64, (), x.device)
    yield from unlike("samples", samples, torch.int64, (len(x),), x.device)


@functools.cache
def _function(device: Device) -> Any:
    function = load("solver_step", device).ddiff_solver_step
    function.argtypes = [c_void_p, c_void_p, c_int, c_bool, c_void_p, c_void_p, c_int64]
    function.argtypes += [c_void_p, c_void_p, c_int64, c_float, c_float, c_bool, c_int64, c_int64]
    function.argtypes += [c_void_p] if device == "cuda" else []
    function.restype = c_int
    return function


_library.impl("solver_step", _native, "CPU")
_library.impl("solver_step", _native, "CUDA")
torch.library.register_fake("ddiff::solver_step", _checked, lib=_library)

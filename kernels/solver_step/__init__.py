"""One step of a plan in one pass over memory: guidance, x_0, clamp, combination, fresh noise; and
the noising of training. Each beside its reference in plain torch, of the same signature."""

import math

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

from ..calling import call, require
from ..philox import normal

__all__ = ["add_noise", "noise_reference", "reference", "solver_step"]

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define(
    "add_noise(Tensor x_0, Tensor coefficients, Tensor samples, int key, int draw) "
    "-> (Tensor, Tensor)"
)
_library.define(
    "solver_step(Tensor(a!) x, Tensor pred, Tensor(b!)? x_0, Tensor table, Tensor step, "
    "Tensor samples, int key, float? clamp, bool noisy, Tensor(c!)? x_0_before=None) -> ()"
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
    x_0_before: Tensor | None = None,
) -> None:
    """x [B, *S] becomes a x + b x_0' + c x_0 + e x_0_before + d noise, x_0_before becomes x_0, and
    x_0 becomes x_0' = clamp(p x + q pred), with p, q, a, b, c, d, w, e = table[step].

    pred is [B, *S], or [2B, *S]: the predictions with labels, then those without, combined as
    (1 + w) labelled - w unlabelled. x_0 counts only where c is not 0, and x_0_before where e is
    not 0; without them c and e count as 0. x_0_before needs x_0 beside it.
    noise = normal(key, samples, step + 1), where `noisy`. table [N, 8] is float32, step [] and
    samples [B] are int64, all on the device of x.
    Raises KernelError where shapes, types or devices do not fit, and on the CPU where the table has
    no row `step`; on a GPU such a step does nothing.
    """
    torch.ops.ddiff.solver_step(x, pred, x_0, table, step, samples, key, clamp, noisy, x_0_before)


def reference(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    table: Tensor,
    step: Tensor,
    samples: Tensor,
    key: int,
    clamp: float | None,
    noisy: bool,
    x_0_before: Tensor | None = None,
) -> None:
    """`solver_step` in plain torch. Waits for nothing on the device."""
    p, q, a, b, c, d, w, e = table.index_select(0, step.view(1))[0].unbind()
    pred = pred.float()
    if len(pred) != len(x):
        labelled, unlabelled = pred.chunk(2)
        pred = (1 + w) * labelled - w * unlabelled
    estimate = p * x + q * pred
    if clamp is not None:
        estimate = estimate.clamp(-clamp, clamp)
    x.mul_(a).add_(b * estimate)
    if x_0 is not None:
        x.add_(torch.where(c == 0, 0.0, c * x_0))
        if x_0_before is not None:
            x.add_(torch.where(e == 0, 0.0, e * x_0_before))
            x_0_before.copy_(x_0)
        x_0.copy_(estimate)
    if noisy:
        x.add_(d * normal(key, samples, step + 1, x.shape[1:]))


def _check(x, pred, x_0, table, step, samples, key, clamp, noisy, x_0_before=None) -> None:
    batch = len(pred) if len(pred) == 2 * len(x) else len(x)
    dtype = pred.dtype if pred.dtype in TYPES else torch.float32
    require("solver_step: x", x, torch.float32, x.shape, x.device)
    require("solver_step: pred", pred, dtype, (batch, *x.shape[1:]), x.device)
    if x_0 is not None:
        require("solver_step: x_0", x_0, torch.float32, x.shape, x.device)
    if x_0_before is not None:
        require("solver_step: x_0_before", x_0_before, torch.float32, x.shape, x.device)
        if x_0 is None:
            raise KernelError("solver_step: x_0_before needs x_0 beside it")
    require("solver_step: table", table, torch.float32, (len(table), 8), x.device)
    require("solver_step: step", step, torch.int64, (), x.device)
    require("solver_step: samples", samples, torch.int64, (len(x),), x.device)


def _native(x, pred, x_0, table, step, samples, key, clamp, noisy, x_0_before=None) -> None:
    _check(x, pred, x_0, table, step, samples, key, clamp, noisy, x_0_before)
    if not x.numel():
        return
    values = (
        *(x.data_ptr(), pred.data_ptr(), TYPES[pred.dtype], len(pred) != len(x)),
        *(None if x_0 is None else x_0.data_ptr(), table.data_ptr(), len(table)),
        *(step.data_ptr(), samples.data_ptr(), key),
        *(math.inf if clamp is None else clamp, noisy),
        *(None if x_0_before is None else x_0_before.data_ptr(), len(x), x.numel() // len(x)),
    )
    if call("solver_step", "solver_step", "ppi?ppqppqf?pqq", x, *values):
        raise KernelError(f"solver_step: step {int(step)} is not in 0..{len(table) - 1}")


def add_noise(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    """x_t = alpha x_0 + sigma eps and target = e eps + s x_0, both like x_0 [B, *S], with
    eps = normal(key, samples, draw).

    coefficients [B, 4] float32 are alpha, sigma, e, s; samples [B] is int64; 0 <= draw < 2^32.
    Raises KernelError where shapes, types or devices do not fit.
    """
    return torch.ops.ddiff.add_noise(x_0, coefficients, samples, key, draw)


def noise_reference(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    """`add_noise` in plain torch."""
    eps = normal(key, samples, draw, x_0.shape[1:])
    alpha, sigma, e, s = coefficients.view(-1, 4, *[1] * (x_0.ndim - 1)).unbind(1)
    return alpha * x_0 + sigma * eps, e * eps + s * x_0


def _noised_empty(x_0, coefficients, samples, key, draw) -> tuple[Tensor, Tensor]:
    device = x_0.device
    require("add_noise: x_0", x_0, torch.float32, x_0.shape, device)
    require("add_noise: coefficients", coefficients, torch.float32, (len(x_0), 4), device)
    require("add_noise: samples", samples, torch.int64, (len(x_0),), device)
    if not 0 <= draw < 1 << 32:
        raise KernelError(f"add_noise: draw {draw} is not in 0..2^32 - 1")
    return torch.empty_like(x_0), torch.empty_like(x_0)


def _noised(x_0, coefficients, samples, key, draw) -> tuple[Tensor, Tensor]:
    x_t, target = _noised_empty(x_0, coefficients, samples, key, draw)
    if x_0.numel():
        pointers = x_0.data_ptr(), coefficients.data_ptr(), samples.data_ptr()
        values = (*pointers, key, draw, x_t.data_ptr(), target.data_ptr(), len(x_0))
        call("solver_step", "add_noise", "pppqqppqq", x_0, *values, x_0.numel() // len(x_0))
    return x_t, target


for _device in ("CPU", "CUDA"):
    _library.impl("solver_step", _native, _device)
    _library.impl("add_noise", _noised, _device)
torch.library.register_fake("ddiff::solver_step", _check, lib=_library)
torch.library.register_fake("ddiff::add_noise", _noised_empty, lib=_library)

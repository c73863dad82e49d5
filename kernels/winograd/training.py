"""Convolution with a kernel of 3 and its gradients, each by fewer multiplications, on the CPU."""

import ctypes
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ddiff.system.errors import KernelError

from ..building import load
from ..convolution import check, chosen_dtype, dense, direct, empty, sizes, strides
from .filters import PER_WORD, pays

TILE = 4, 4
LEAST = 8  # tiles that pay for the transforms of the weights' gradient
PACKED = {torch.float32: 16, torch.bfloat16: 24}  # tiles that pay for the packing of weights

LIBRARY = torch.library.Library("ddiff", "FRAGMENT")
LIBRARY.define("winograd_plain(Tensor x, Tensor weight, Tensor bias, bool transposed) -> Tensor")
LIBRARY.define("winograd_gradient(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor)")
PLAIN = torch.ops.ddiff.winograd_plain.default
GRADIENT = torch.ops.ddiff.winograd_gradient.default


def trained_conv(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d or F.conv3d (input, weight, bias, padding=1), differentiable, in autocast's dtype.

    Each of the three passes by Winograd's algorithm where that pays; else by torch.
    """
    if trains(input, weight):
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        return PLAIN(input.to(chosen_dtype(input)), weight.float(), bias.float(), False)
    return (F.conv2d if input.ndim == 4 else F.conv3d)(input, weight, bias, padding=1)


def trains(x: Tensor, weight: Tensor) -> bool:
    """Whether it pays to use Winograd's algorithm with weights that change at every call."""
    pays_at_all = x.is_cpu and pays(weight.shape, x.shape[2:], chosen_dtype(x))
    return pays_at_all and _tiles(x) >= LEAST


def _tiles(x: Tensor) -> int:
    height, width = (-(-size // tile) for size, tile in zip(x.shape[-2:], TILE, strict=True))
    return len(x) * math.prod(x.shape[2:-2]) * height * width


def _forward(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    check("winograd", x, weight, int(not transposed), PER_WORD)
    if _tiles(x) < PACKED[x.dtype]:
        return direct(x, weight.to(x.dtype), bias.to(x.dtype), transposed)
    x, bias = dense(x), bias.float().contiguous()
    y = empty(x, weight, transposed)
    taps, base = strides(weight), weight.data_ptr()
    if transposed:  # outputs and inputs change places, and the taps their order
        base += 2 * 4 * sum(taps[2:])
        taps = [taps[1], taps[0], *(-stride for stride in taps[2:])]
    _call("plain", x, (x.data_ptr(), base), taps, (bias.data_ptr(), y.data_ptr()), y.shape[1])
    return y


def _gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    check("winograd", x, weight, 1, PER_WORD)
    if dy.shape != (len(x), len(weight), *x.shape[2:]):
        raise KernelError(f"winograd: dy is {list(dy.shape)}, x {list(x.shape)}")
    dy, x = dense(dy.to(x.dtype)), dense(x)
    dw, db = _fake_gradient(dy, x, weight)
    pointers = x.data_ptr(), dy.data_ptr(), dw.data_ptr()
    _call("gradient", x, pointers, strides(dw), (db.data_ptr(),), len(weight))
    return dw, db


def _call(
    name: str, x: Tensor, before: tuple, strides: list[int], after: tuple, outputs: int
) -> None:
    numbers = *sizes(x), x.shape[1], outputs, 1 if x.ndim == 4 else 3
    load("winograd", "cpu")["ddiff_winograd_" + name](
        *map(ctypes.c_void_p, before),
        (ctypes.c_int64 * 5)(*strides),
        *map(ctypes.c_void_p, after),
        int(x.dtype == torch.bfloat16),
        *TILE,
        *map(ctypes.c_int64, numbers),
        torch.get_num_threads(),
    )


def _fake_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty(len(weight))


def _save(ctx, inputs, output) -> None:
    x, weight, _, ctx.transposed = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx, dy):
    if ctx.transposed:
        raise KernelError("winograd: a gradient of a gradient; train with the plain convolution")
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = dw = db = None
    if needs[0]:
        dx = PLAIN(dy, weight, weight.new_zeros(weight.shape[1]), True)
    if needs[1] or needs[2]:
        dw, db = GRADIENT(dy, x, weight)
    return dx, dw, db, None


LIBRARY.impl("winograd_plain", _forward, "CPU")
LIBRARY.impl("winograd_gradient", _gradient, "CPU")
torch.library.register_fake(
    "ddiff::winograd_plain",
    lambda x, weight, bias, transposed: empty(x, weight, transposed),
    lib=LIBRARY,
)
torch.library.register_fake("ddiff::winograd_gradient", _fake_gradient, lib=LIBRARY)
torch.library.register_autograd(
    "ddiff::winograd_plain", _differentiate, setup_context=_save, lib=LIBRARY
)

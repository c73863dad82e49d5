"""Convolution with a kernel of 3 in bfloat16, whose weights' gradient is made by AMX tiles."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from ddiff.errors import KernelError

from ..building import load
from ..convolution import check, chosen_dtype, dense, direct, empty, sizes, strides

__all__ = ["conv", "trains"]

LEAST = 2048  # inputs x outputs; 32 x 32 is faster as torch does it: notes.md

LIBRARY = torch.library.Library("ddiff", "FRAGMENT")
LIBRARY.define("tiled_conv(Tensor x, Tensor weight, Tensor bias) -> Tensor")
LIBRARY.define("tile_gradient(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor)")
CONV = torch.ops.ddiff.tiled_conv.default
GRADIENT = torch.ops.ddiff.tile_gradient.default


def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d or F.conv3d (x, weight, bias, padding=1) in bfloat16, differentiable once.

    weight and bias are float32; their gradients are too, and are not rounded on the way.
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return CONV(x.to(torch.bfloat16), weight.float(), bias.float())


def trains(x: Tensor, weight: Tensor) -> bool:
    """Whether this processor makes this layer's gradient faster than torch does: notes.md."""
    return (
        x.is_cpu
        and chosen_dtype(x) == torch.bfloat16
        and set(weight.shape[2:]) == {3}
        and len(x) > 1  # samples are worked on in pairs
        and weight.shape[0] * weight.shape[1] >= LEAST
        and min(weight.shape[:2]) >= 32
        and torch.cpu._is_amx_tile_supported()
        and _library().ddiff_has_tiles()
    )


@cache
def _library() -> ctypes.CDLL:
    """Asks the system for the tiles, once."""
    torch.cpu._init_amx()
    return load("tile_gradient", "cpu")


def _forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    check("tiled_conv", x, weight, 1, (torch.bfloat16,))
    return direct(x, weight.to(x.dtype), bias.to(x.dtype), False)


def _gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    check("tiled_conv", x, weight, 1, (torch.bfloat16,))
    if dy.shape != (len(x), len(weight), *x.shape[2:]):
        raise KernelError(f"tile_gradient: dy is {list(dy.shape)}, x {list(x.shape)}")
    dy, x = dense(dy.to(x.dtype)), dense(x)
    dw, db = _fake_gradient(dy, x, weight)
    if not x.numel():
        return dw.zero_(), db.zero_()
    _library().ddiff_tile_gradient(
        *map(ctypes.c_void_p, (x.data_ptr(), dy.data_ptr(), dw.data_ptr())),
        (ctypes.c_int64 * 5)(*strides(dw)),
        ctypes.c_void_p(db.data_ptr()),
        *map(ctypes.c_int64, (*sizes(x), x.shape[1], len(weight), 1 if x.ndim == 4 else 3)),
        ctypes.c_int64(torch.get_num_threads()),
    )
    return dw, db


def _fake_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty(len(weight))


def _save(ctx, inputs, output) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx, dy):
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = dw = db = None
    if needs[0]:
        dx = direct(dense(dy), weight.to(dy.dtype), None, True)
    if needs[1] or needs[2]:
        dw, db = GRADIENT(dy, x, weight)
    return dx, dw, db


LIBRARY.impl("tiled_conv", _forward, "CPU")
LIBRARY.impl("tile_gradient", _gradient, "CPU")
torch.library.register_fake(
    "ddiff::tiled_conv", lambda x, weight, bias: empty(x, weight, False), lib=LIBRARY
)
torch.library.register_fake("ddiff::tile_gradient", _fake_gradient, lib=LIBRARY)
torch.library.register_autograd(
    "ddiff::tiled_conv", _differentiate, setup_context=_save, lib=LIBRARY
)

"""Convolutions with a kernel of 3, stride 1 and padding 1 by fewer multiplications, on the CPU: of
packed weights, and of plain ones, differentiable. Everything is channels last."""

import ctypes
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ddiff.system.errors import KernelError

from ..building import load
from .filters import LANES, PER_WORD, SIDE, TILE, pays

LEAST = 8  # tiles that pay for the transforms of the weights' gradient
PACKED = {torch.float32: 16, torch.bfloat16: 24}  # tiles that pay for the packing of weights

LIBRARY = torch.library.Library("ddiff", "FRAGMENT")
LIBRARY.define("winograd(Tensor x, Tensor weight, Tensor bias) -> Tensor")
LIBRARY.define("winograd_plain(Tensor x, Tensor weight, Tensor bias, bool transposed) -> Tensor")
LIBRARY.define("winograd_gradient(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor)")
PLAIN = torch.ops.ddiff.winograd_plain.default
GRADIENT = torch.ops.ddiff.winograd_gradient.default


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.conv2d or F.conv3d (x, ..., bias, padding=1) with `weight` from `pack`; of the upsampled x
    where that was told to.

    x [B, C, H, W] or [B, C, D, H, W], in the dtype that the weight was packed for; bias [O].
    The output is channels last. Forward only: a backward pass raises KernelError.
    """
    return torch.ops.ddiff.winograd(x, weight, bias)


def trained_conv(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d or F.conv3d (input, weight, bias, padding=1), differentiable, in autocast's dtype.

    Each of the three passes by Winograd's algorithm where that pays; else by torch.
    """
    if trains(input, weight):
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        return PLAIN(input.to(_chosen_dtype(input)), weight.float(), bias.float(), False)
    return (F.conv2d if input.ndim == 4 else F.conv3d)(input, weight, bias, padding=1)


def trains(x: Tensor, weight: Tensor) -> bool:
    """Return True if Winograd's algorithm is faster here with weights that change at every call."""
    pays_at_all = x.is_cpu and pays(weight.shape, x.shape[2:], _chosen_dtype(x))
    return pays_at_all and tiles(x) >= LEAST


def tiles(x: Tensor) -> int:
    height, width = (-(-size // TILE) for size in x.shape[-2:])
    return len(x) * math.prod(x.shape[2:-2]) * height * width


def _chosen_dtype(x: Tensor) -> torch.dtype:
    """The number format that autocast computes in; that of x outside autocast."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_layout(x))


def _call(name: str, arguments: tuple, x: Tensor, outputs: int, taps: int, scale: int = 1) -> None:
    """Runs ddiff_<name>: tensors, addresses and strides, then what tasks.h calls a Shape."""
    depth = 1 if x.ndim == 4 else x.shape[2]
    shape = len(x), depth, *x.shape[-2:], x.shape[1], outputs, taps, scale
    load("winograd", "cpu")[f"ddiff_{name}"](
        *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments),
        int(x.dtype == torch.bfloat16),
        (ctypes.c_int64 * 8)(*shape),
        torch.get_num_threads(),
    )


def _packed_empty(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    scale = 1 if len(weight) == 1 else 2
    shape = (len(x), len(bias), *(scale * size for size in x.shape[2:]))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _packed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if weight.ndim != 8 or weight.shape[2:4] != (SIDE, SIDE) or not weight.is_contiguous():
        raise KernelError(f"winograd: a weight of {list(weight.shape)} does not come from pack()")
    if x.dtype != weight.dtype:
        raise KernelError(f"winograd: x is {x.dtype}, and the weight was packed for {weight.dtype}")
    taps, words, _, per_word = weight.shape[4:]
    if x.ndim != (axes := 4 if taps == 1 else 5):
        raise KernelError(f"winograd: x has {x.ndim} axes, and the weight is for {axes}")
    if -(-x.shape[1] // per_word) != words:
        raise KernelError(
            f"winograd: x has {x.shape[1]} channels, and the weight takes {words * per_word}"
        )
    if bias.ndim != 1 or -(-len(bias) // LANES) != weight.shape[1]:
        raise KernelError(
            f"winograd: a bias of {list(bias.shape)}, and {weight.shape[1] * LANES} outputs"
        )
    x, bias = _dense(x), bias.float().contiguous()
    y = _packed_empty(x, weight, bias)
    if y.numel():
        scale = y.shape[-1] // x.shape[-1]
        _call("winograd", (x, weight, bias, y), x, len(bias), taps, scale)
    return y


def _no_backward(*_: object) -> None:
    raise KernelError("winograd has no backward pass for packed weights; train with trained_conv")


def _check(x: Tensor, weight: Tensor, inputs: int) -> None:
    """Raises KernelError unless axis `inputs` of a float32 weight with a kernel of 3 fits x."""
    if x.dtype not in PER_WORD or weight.dtype != torch.float32 or set(weight.shape[2:]) != {3}:
        raise KernelError(f"winograd: x is {x.dtype}, the weight {weight.dtype} {[*weight.shape]}")
    if x.ndim != weight.ndim or x.ndim not in (4, 5) or x.shape[1] != weight.shape[inputs]:
        raise KernelError(f"winograd: x is {list(x.shape)}, the weight {list(weight.shape)}")


def _strides(weight: Tensor) -> list[int]:
    """The strides of a weight: outputs, inputs, and three axes of taps (0 for an absent axis)."""
    outputs, inputs, *taps = weight.stride()
    return [outputs, inputs, *[0] * (3 - len(taps)), *taps]


def _plain_empty(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    """The convolution of x, or of an output's gradient x (transposed), without its numbers."""
    shape = len(x), weight.shape[int(transposed)], *x.shape[2:]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _plain(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    _check(x, weight, int(not transposed))
    if tiles(x) < PACKED[x.dtype]:
        return _direct(x, weight.to(x.dtype), bias.to(x.dtype), transposed)
    x, bias = _dense(x), bias.float().contiguous()
    y = _plain_empty(x, weight, bias, transposed)
    taps, base = _strides(weight), weight.data_ptr()
    if transposed:  # outputs and inputs change places, and the taps their order
        base += 2 * 4 * sum(taps[2:])
        taps = [taps[1], taps[0], *(-stride for stride in taps[2:])]
    arguments = x, ctypes.c_void_p(base), (ctypes.c_int64 * 5)(*taps), bias, y
    _call("winograd_plain", arguments, x, y.shape[1], 1 if x.ndim == 4 else 3)
    return y


def _direct(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    """The convolution by torch. Where transposed, x is an output's gradient, without a bias."""
    ones, zeros = [1] * (x.ndim - 2), [0] * (x.ndim - 2)
    how = ones, ones, ones, False, zeros, 1
    if not transposed:
        return _dense(torch.convolution(x, weight, bias, *how))
    shaped = _plain_empty(x, weight, bias, True)  # its layout decides how torch goes about it
    backward = torch.ops.aten.convolution_backward
    return _dense(backward(x, shaped, weight, None, *how, [True, False, False])[0])


def _gradient_empty(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty(len(weight))


def _gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, weight, 1)
    if dy.shape != (len(x), len(weight), *x.shape[2:]):
        raise KernelError(f"winograd: dy is {list(dy.shape)}, x {list(x.shape)}")
    dy, x = _dense(dy.to(x.dtype)), _dense(x)
    dw, db = _gradient_empty(dy, x, weight)
    arguments = x, dy, dw, (ctypes.c_int64 * 5)(*_strides(dw)), db
    _call("winograd_gradient", arguments, x, len(weight), 1 if x.ndim == 4 else 3)
    return dw, db


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


for _name, _run, _fake in (
    ("winograd", _packed, _packed_empty),
    ("winograd_plain", _plain, _plain_empty),
    ("winograd_gradient", _gradient, _gradient_empty),
):
    LIBRARY.impl(_name, _run, "CPU")
    torch.library.register_fake(f"ddiff::{_name}", _fake, lib=LIBRARY)
torch.library.register_autograd("ddiff::winograd", _no_backward, lib=LIBRARY)
torch.library.register_autograd(
    "ddiff::winograd_plain", _differentiate, setup_context=_save, lib=LIBRARY
)

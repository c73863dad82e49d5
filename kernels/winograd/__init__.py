"""Convolution with a kernel of 3 by fewer multiplications, on the CPU."""

import ctypes

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

from ..building import load
from ..convolution import dense, layout, sizes
from .filters import LANES, TILES, pack, pays
from .training import trained_conv, trains

__all__ = ["conv", "pack", "pays", "trained_conv", "trains"]

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define("winograd(Tensor x, Tensor weight, Tensor bias) -> Tensor")


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.conv2d or F.conv3d (x, ..., bias, padding=1) with `weight` from `pack`; of the upsampled x
    where that was told to.

    x [B, C, H, W] or [B, C, D, H, W], in the dtype that the weight was packed for; bias [O].
    The output is channels last. Forward only: a backward pass raises KernelError.
    """
    return torch.ops.ddiff.winograd(x, weight, bias)


def _empty(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    scale = 1 if len(weight) == 1 else 2
    shape = (len(x), len(bias), *(scale * size for size in x.shape[2:]))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    tile = tuple(size - 2 for size in weight.shape[2:4])
    if weight.ndim != 8 or tile not in TILES or not weight.is_contiguous():
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


def _native(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    _check(x, weight, bias)
    x, bias = dense(x), bias.float().contiguous()
    y = _empty(x, weight, bias)
    if not y.numel():
        return y
    scale = y.shape[-1] // x.shape[-1]
    numbers = *sizes(x), x.shape[1], len(bias), weight.shape[4], scale
    load("winograd", "cpu").ddiff_winograd(
        *(ctypes.c_void_p(t.data_ptr()) for t in (x, weight, bias, y)),
        int(x.dtype == torch.bfloat16),
        *(size - 2 for size in weight.shape[2:4]),
        *map(ctypes.c_int64, numbers),
        torch.get_num_threads(),
    )
    return y


def _no_backward(*_: object) -> None:
    raise KernelError(
        "winograd has no backward pass for packed weights; train with trained_conv, or convolve "
        "the output's gradient with pack(weight, dtype, transposed=True)"
    )


_library.impl("winograd", _native, "CPU")
torch.library.register_fake("ddiff::winograd", _empty, lib=_library)
torch.library.register_autograd("ddiff::winograd", _no_backward, lib=_library)

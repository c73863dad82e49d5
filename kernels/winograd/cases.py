"""Convolutions of the U-Nets, batch 8; a training step's, batch 16 in 2D."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..measuring import Case
from . import conv, pack, reference
from .convolution import GRADIENT, PACKED, PLAIN, tiles

SHAPES: list[tuple[int, int, tuple[int, ...]]] = [  # inputs, outputs, space
    (128, 128, (32, 32)),
    (512, 256, (16, 16)),
    (256, 256, (8, 8)),
    (256, 256, (4, 4)),
    (32, 32, (16, 16, 16)),
    (112, 48, (8, 8, 8)),
    (64, 64, (4, 4, 4)),
]
UPSAMPLED: list[tuple[int, int, tuple[int, ...]]] = [(256, 256, (16, 16)), (48, 48, (8, 8, 8))]
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
KINDS = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def cases(device: str) -> list[Case]:
    """None on GPUs, where cuDNN has its own Winograd."""
    if device != "cpu":
        return []
    found = []
    for dtype in KINDS:
        found += [_packed(*shape, dtype, False) for shape in SHAPES]
        found += [_packed(*shape, dtype, True) for shape in UPSAMPLED]
    for dtype in KINDS:
        for shape in SHAPES:
            found += _training(*shape, dtype)
    return found


def _weight(inputs: int, outputs: int, dims: int) -> Tensor:
    return torch.randn(outputs, inputs, *[3] * dims) / (inputs * 3**dims) ** 0.5


def _packed(
    inputs: int, outputs: int, space: Sequence[int], dtype: torch.dtype, upsample: bool
) -> Case:
    dims = len(space)
    x = torch.randn(8, inputs, *space).to(dtype, memory_format=LAYOUTS[dims])
    weight, bias = _weight(inputs, outputs, dims), torch.randn(outputs)
    plain, plain_bias = weight.to(dtype, memory_format=LAYOUTS[dims]), bias.to(dtype)
    packed = pack(weight, dtype, upsample=upsample)

    def eager() -> Tensor:
        large = F.interpolate(x, scale_factor=2.0) if upsample else x
        return (F.conv2d if dims == 2 else F.conv3d)(large, plain, plain_bias, padding=1)

    written = x.numel() // inputs * outputs * (2**dims if upsample else 1)
    name = f"8 x {inputs} -> {outputs}, {'x'.join(map(str, space))}{' upsampled' * upsample}"
    return Case(
        name=f"{name}, {KINDS[dtype]}",
        native=lambda: [conv(x, packed, bias)],
        reference=lambda: [reference.conv(x, packed, bias)],
        eager=eager,
        bytes=(x.numel() + packed.numel() + written) * dtype.itemsize,
        tolerance=1e-4 if dtype == torch.float32 else 0.07,  # one rounding of an output of 8
    )


def _training(
    inputs: int, outputs: int, space: Sequence[int], dtype: torch.dtype
) -> Iterator[Case]:
    """Three passes, as a training step has them: weights are float32, and new at every call."""
    dims = len(space)
    batch = 16 if dims == 2 else 8
    x = torch.randn(batch, inputs, *space).to(dtype, memory_format=LAYOUTS[dims])
    dy = torch.randn(batch, outputs, *space).to(dtype, memory_format=LAYOUTS[dims])
    weight = _weight(inputs, outputs, dims).contiguous(memory_format=LAYOUTS[dims])
    bias = torch.randn(outputs)
    how = [1] * dims, [1] * dims, [1] * dims, False, [0] * dims, 1

    def forward() -> Tensor:
        return torch.convolution(x, weight.to(dtype), bias.to(dtype), *how)

    def backward(*mask: bool) -> object:
        plain = weight.to(dtype)
        return torch.ops.aten.convolution_backward(dy, x, plain, [outputs], *how, mask)

    small = dy / (batch * math.prod(space)) ** 0.5  # for weights' gradients of order 1
    forth, back = (x, weight, bias, False), (dy, weight, bias.new_zeros(inputs), True)
    passes = {  # native, reference, eager
        "": (lambda: [PLAIN(*forth)], lambda: [reference.plain(*forth)], forward),
        ", input's gradient": (
            lambda: [PLAIN(*back)],
            lambda: [reference.plain(*back)],
            lambda: backward(True, False, False),
        ),
        ", weights' gradient": (
            lambda: GRADIENT(small, x, weight),
            lambda: reference.gradient(small, x, weight),
            lambda: backward(False, True, True),
        ),
    }
    # few tiles go to torch, which rounds less than the reference: that is then what differs
    bf16 = 0.15 if tiles(x) < PACKED[torch.bfloat16] else 0.07
    shape = f"{batch} x {inputs} -> {outputs}, {'x'.join(map(str, space))} training"
    for name, calls in passes.items():
        yield Case(
            f"{shape}{name}, {KINDS[dtype]}",
            *calls,
            bytes=(x.numel() + dy.numel()) * dtype.itemsize + weight.numel() * 4,
            tolerance=1e-4 if dtype == torch.float32 else bf16,
        )

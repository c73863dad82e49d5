"""Convolutions of the U-Nets, batch 8; a training step's, batch 16 in 2D."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..case import Case
from . import conv, pack, reference
from .training import GRADIENT, PACKED, PLAIN, _tiles

Outputs = Callable[[], Sequence[Tensor]]
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


def cases(device: str) -> list[Case]:
    """None on GPUs, where cuDNN has its own Winograd."""
    if device != "cpu":
        return []
    dtypes = torch.float32, torch.bfloat16
    packed = [
        _case(*shape, dtype, upsample)
        for dtype in dtypes
        for shapes, upsample in ((SHAPES, False), (UPSAMPLED, True))
        for shape in shapes
    ]
    return packed + [
        case for dtype in dtypes for shape in SHAPES for case in _training(*shape, dtype)
    ]


def _case(
    inputs: int, outputs: int, space: Sequence[int], dtype: torch.dtype, upsample: bool
) -> Case:
    dims = len(space)
    direct = {2: F.conv2d, 3: F.conv3d}[dims]
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    x = torch.randn(8, inputs, *space).to(dtype, memory_format=layout)
    weight = torch.randn(outputs, inputs, *[3] * dims) / (inputs * 3**dims) ** 0.5
    bias = torch.randn(outputs)
    plain, plain_bias = weight.to(dtype, memory_format=layout), bias.to(dtype)
    packed = pack(weight, dtype, upsample=upsample)

    def eager() -> Tensor:
        large = F.interpolate(x, scale_factor=2.0) if upsample else x
        return direct(large, plain, plain_bias, padding=1)

    written = x.numel() // inputs * outputs * (2**dims if upsample else 1)
    name = f"8 x {inputs} -> {outputs}, {'x'.join(map(str, space))}{' upsampled' * upsample}"
    return Case(
        name=f"{name}, {'fp32' if dtype == torch.float32 else 'bf16'}",
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
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    x, dy = (
        torch.randn(batch, n, *space).to(dtype, memory_format=layout) for n in (inputs, outputs)
    )
    weight = torch.randn(outputs, inputs, *[3] * dims) / (inputs * 3**dims) ** 0.5
    weight, bias = weight.contiguous(memory_format=layout), torch.randn(outputs)
    how = [1] * dims, [1] * dims, [1] * dims, False, [0] * dims, 1

    def forward() -> Tensor:
        return torch.convolution(x, weight.to(dtype), bias.to(dtype), *how)

    def backward(*mask: bool) -> object:
        plain = weight.to(dtype)
        return torch.ops.aten.convolution_backward(dy, x, plain, [outputs], *how, mask)

    small = dy / (batch * math.prod(space)) ** 0.5  # for weights' gradients of order 1
    forth, back = (x, weight, bias, False), (dy, weight, bias.new_zeros(inputs), True)
    passes: dict[str, tuple[Outputs, Outputs, Callable[[], object]]] = {
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
    bf16 = 0.15 if _tiles(x) < PACKED[torch.bfloat16] else 0.07
    shape = f"{batch} x {inputs} -> {outputs}, {'x'.join(map(str, space))} training"
    for name, (native, torch_s, eager) in passes.items():
        yield Case(
            name=f"{shape}{name}, {'fp32' if dtype == torch.float32 else 'bf16'}",
            native=native,
            reference=torch_s,
            eager=eager,
            bytes=(x.numel() + dy.numel()) * dtype.itemsize + weight.numel() * 4,
            tolerance=1e-4 if dtype == torch.float32 else bf16,
        )

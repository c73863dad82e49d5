"""Convolutions of the U-Nets, batch 8."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..case import Case
from . import conv, pack, reference

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
    return [
        _case(*shape, dtype, upsample)
        for dtype in (torch.float32, torch.bfloat16)
        for shapes, upsample in ((SHAPES, False), (UPSAMPLED, True))
        for shape in shapes
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

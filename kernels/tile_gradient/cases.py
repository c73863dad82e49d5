"""The weights' gradients of the U-Nets' convolutions: batch 16 in 2D, 8 in 3D."""

import math

import torch
from torch import Tensor

from ..case import Case
from ..convolution import layout
from . import GRADIENT, reference

SHAPES: list[tuple[int, int, tuple[int, ...]]] = [  # inputs, outputs, space
    (128, 128, (32, 32)),
    (384, 128, (32, 32)),
    (256, 256, (16, 16)),
    (512, 256, (16, 16)),
    (256, 256, (8, 8)),
    (512, 256, (8, 8)),
    (256, 256, (4, 4)),
    (32, 32, (16, 16, 16)),
    (80, 32, (16, 16, 16)),
    (48, 48, (8, 8, 8)),
    (112, 48, (8, 8, 8)),
    (64, 64, (4, 4, 4)),
]


def cases(device: str) -> list[Case]:
    """On processors with AMX; elsewhere nothing calls it."""
    has_tiles = device == "cpu" and torch.cpu._is_amx_tile_supported()
    return [_case(*shape) for shape in SHAPES] if has_tiles else []


def _case(inputs: int, outputs: int, space: tuple[int, ...]) -> Case:
    batch = 16 if len(space) == 2 else 8
    x, dy = (torch.randn(batch, n, *space).bfloat16() for n in (inputs, outputs))
    dy = dy / (batch * math.prod(space)) ** 0.5  # for gradients of order 1
    x, dy = (value.contiguous(memory_format=layout(x)) for value in (x, dy))
    weight = torch.zeros(outputs, inputs, *[3] * len(space)).contiguous(memory_format=layout(x))
    plain = weight.bfloat16()
    how = [1] * len(space), [1] * len(space), [1] * len(space), False, [0] * len(space), 1

    def eager() -> list[Tensor]:
        """As autocast does it: in bfloat16, and then a cast to what the optimiser takes."""
        mask = [False, True, True]
        backward = torch.ops.aten.convolution_backward
        _, dw, db = backward(dy, x, plain, [outputs], *how, mask)
        return [dw.float(), db.float()]

    return Case(
        name=f"{batch} x {inputs} -> {outputs}, {'x'.join(map(str, space))}",
        native=lambda: list(GRADIENT(dy, x, weight)),
        reference=lambda: list(reference.gradient(dy, x, weight)),
        eager=eager,
        bytes=2 * (x.numel() + dy.numel()) + 4 * weight.numel(),
        tolerance=1e-4,
    )

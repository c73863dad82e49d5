"""The net as an artifact holds it: float32 in and out, its parameters in the artifact's precision.

(x [B, C, *S] float32, t - 1 [B] int64, and with classes y [B] int64, -1 for "no label")
    -> prediction [B, C, *S] float32
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddiff.nets.blocks import Upsample

Inputs = tuple[Tensor, ...]
NAMES = ("x", "t", "y")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
          "int8": torch.float32, "fp8": torch.float32}  # fmt: skip


class Door(nn.Module):
    def __init__(self, net: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        own: Any = copy.deepcopy(net).requires_grad_(False)
        _fold(own)
        # formats keep dense weights best; x decides that the convolutions run channels last
        self.net = own.to(self.dtype, memory_format=torch.contiguous_format)
        self.eval()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        form = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        return self.net(x.to(self.dtype, memory_format=form), t, y).float().contiguous()


class Made(nn.Module):
    """An `Upsample` whose kernel is a parameter, not the result of a computation."""

    def __init__(self, layer: Upsample):
        super().__init__()
        self.transposed = layer.transposed
        self.bias = layer.conv.bias
        self.weight = nn.Parameter(layer.kernel(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x, self.weight, self.bias, stride=2, padding=1)


def _fold(net: nn.Module) -> None:
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Upsample):
                setattr(parent, name, Made(child))


@dataclass(frozen=True)
class Job:
    """What a format writes: `batch` None is any size (where a largest must be named, that of the
    example), `calibration` makes inputs that the net meets when it samples."""

    door: Door
    example: Inputs
    precision: str
    batch: int | None
    calibration: Callable[[], Iterator[Inputs]]


def program(job: Job, largest: int | None = None) -> torch.export.ExportedProgram:
    """The graph of ATen operations that several formats are made from."""
    shapes = None
    if job.batch is None:
        batch = torch.export.Dim("batch", min=1, max=largest)
        shapes = tuple({0: batch} for _ in job.example)
    with torch.no_grad():
        return torch.export.export(job.door, job.example, dynamic_shapes=shapes)

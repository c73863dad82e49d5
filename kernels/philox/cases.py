"""What `python -m ddiff.kernels` checks and times."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..case import Case
from . import native_normal, normal

KEY = 0x1234_5678_9ABC_DEF0


def cases(device: str) -> list[Case]:
    voxels, image = (1, 64, 64, 64), (3, 32, 32)
    return [_case(device, 64, voxels), _case(device, 8, voxels), _case(device, 8, image)]


def _case(device: str, batch: int, shape: tuple[int, ...]) -> Case:
    samples = torch.arange(batch, device=device)
    step = torch.tensor(3, device=device)

    def native() -> Sequence[Tensor]:
        return (native_normal(KEY, samples, step, shape),)

    def reference() -> Sequence[Tensor]:
        return (normal(KEY, samples, step, shape),)

    name = " x ".join(map(str, (batch, *shape)))
    eager = partial(torch.randn, batch, *shape, device=device)
    values = batch * torch.Size(shape).numel()
    return Case(f"normal {name}", native, reference, eager, 4 * values, 2e-6)

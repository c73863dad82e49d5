"""Cases of philox that `python -m ddiff.kernels` checks and times."""

from functools import partial

import torch

from ..measuring import Case
from . import native_normal, normal

KEY = 0x1234_5678_9ABC_DEF0
VOXELS, IMAGE = (1, 64, 64, 64), (3, 32, 32)


def cases(device: str) -> list[Case]:
    return [_case(device, 64, VOXELS), _case(device, 8, VOXELS), _case(device, 8, IMAGE)]


def _case(device: str, batch: int, shape: tuple[int, ...]) -> Case:
    inputs = KEY, torch.arange(batch, device=device), torch.tensor(3, device=device), shape
    return Case(
        name=f"normal {' x '.join(map(str, (batch, *shape)))}",
        native=lambda: [native_normal(*inputs)],
        reference=lambda: [normal(*inputs)],
        eager=partial(torch.randn, batch, *shape, device=device),
        bytes=4 * batch * torch.Size(shape).numel(),
        tolerance=2e-6,
    )

"""What a data set is to everything else: something that turns indices into a batch."""

from typing import Protocol

import torch
from torch import Tensor


class Source(Protocol):
    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """indices [B] int64 -> x [B, C, *S] float32 in [-1, 1], y [B] int64 or None."""
        ...


def to_unit(x: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], both ends exact; float32 in [-1, 1] passes through."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x


def to_bytes(x: Tensor) -> Tensor:
    """The nearest uint8 to what `to_unit` would have come from."""
    return x.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Stored:
    """A whole data set in memory as uint8; `pad` voxels of background on every side."""

    def __init__(self, images: Tensor, labels: Tensor | None, pad: int = 0) -> None:
        self.images, self.labels, self.pad = images, labels, pad  # [N, C, H, W], [N] uint8

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        images = torch.nn.functional.pad(self.images[indices], (self.pad,) * 4)
        return to_unit(images), None if self.labels is None else self.labels[indices].long()

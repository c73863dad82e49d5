"""Rotated solids of six classes: labelled volumes for conditional models."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddiff.data.base import BatchSize, Data, VoxelCount, Workers, at_least
from ddiff.data.solids import SOLIDS, rotations, unit_dims
from ddiff.data.spheres import check_radii, place
from ddiff.system.bounds import Count, Positive, Seed
from ddiff.system.random import generator

CLASS_NAMES = [*(solid.__name__ for solid in SOLIDS), "union"]
UNION = len(SOLIDS)
NONE = -1


@dataclass(frozen=True)
class Pieces:
    """Solids in voxel coordinates; a sample is the union of two slots, the second often empty."""

    kind: Tensor  # [N, 2] index into SOLIDS, or NONE
    dims: Tensor  # [N, 2, 3]
    rotation: Tensor  # [N, 2, 3, 3], its columns are the solid's own axes
    centre: Tensor  # [N, 2, 3]


class ShapeSource:
    """+1 inside, -1 outside; drawn anew each time, only where the ball around a shape reaches."""

    def __init__(self, size: int, label: Tensor, ball: Tensor, pieces: Pieces) -> None:
        self.size, self.label, self.pieces = size, label, pieces
        middle, radius = ball[:, :3], ball[:, 3:]  # ball [N, 4]: its centre and radius
        self.ball = ball
        self.window = min(size, 2 * math.ceil(float(radius.max())) + 2)
        self.corner = (middle - radius).floor().long().clamp(0, size - self.window)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        n, w = self.size, self.window
        x = torch.full((len(indices), 1, n, n, n), -1.0)
        for out, rows in zip(x.split(8), indices.split(8), strict=True):
            for volume, corner, inside in zip(
                out, self.corner[rows].tolist(), self._inside(rows), strict=True
            ):
                z, y, x0 = corner
                volume[0, z : z + w, y : y + w, x0 : x0 + w].masked_fill_(inside, 1.0)
        return x, self.label[indices]

    def _inside(self, rows: Tensor) -> Tensor:
        """[b, w, w, w], in the windows at `corner`."""
        inside = torch.zeros(len(rows), *(self.window,) * 3, dtype=torch.bool)
        for slot in range(2):
            kinds = self.pieces.kind[rows, slot]
            for kind, solid in enumerate(SOLIDS):
                chosen = (kinds == kind).nonzero()[:, 0]
                if len(chosen):
                    dims = self.pieces.dims[rows[chosen], slot][..., None, None, None]
                    inside[chosen] |= solid(*self._local(rows[chosen], slot), *dims.unbind(1))
        return inside

    def _local(self, rows: Tensor, slot: int) -> list[Tensor]:
        """The windows' voxels in the solid's frame, R^T (voxel - centre): three [b, w, w, w]."""
        axis = torch.arange(self.window) + self.corner[rows][..., None]  # [b, 3, w]
        offset = axis - self.pieces.centre[rows, slot][..., None]
        turned = self.pieces.rotation[rows, slot].mT[..., None] * offset[:, None]  # [b, 3, 3, w]
        d, h, w = turned.unbind(2)
        return [
            (d[:, k, :, None, None] + h[:, k, None, :, None]) + w[:, k, None, None]
            for k in range(3)
        ]


class Shapes(Data):
    """Cube, ellipsoid, cylinder, torus, cone, and unions of two different ones.

    Proportions, rotation, size and position are uniform; the ball around a shape has a radius
    in [radius_min, radius_max] x size and stays in the volume. Sample i has class i mod 6.
    """

    num_classes = len(CLASS_NAMES)

    def __init__(
        self,
        batch_size: BatchSize,
        seed: Seed,
        size: VoxelCount = 64,
        num: Count = 100_000,
        num_val: Count = 200,
        radius_min: Positive = 0.25,
        radius_max: Positive = 0.4,
        num_workers: Workers = None,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, flip)
        at_least(1, size=size, num=num, num_val=num_val)
        check_radii(radius_min, radius_max)
        self.shape, self.class_names = (1, size, size, size), CLASS_NAMES
        self.size, self.num, self.num_val = size, num, num_val
        self.radius_range = (radius_min * size, radius_max * size)

    def sources(self) -> tuple[ShapeSource, ShapeSource]:
        return self._draw(self.num, "train"), self._draw(self.num_val, "val")

    def _draw(self, num: int, split: str) -> ShapeSource:
        random = generator("cpu", self.seed, "shapes", split)
        low, high = self.radius_range
        radius = low + (high - low) * torch.rand(num, generator=random)
        middle = (self.size - 1) / 2 + place(radius, self.size, random)
        label = torch.arange(num) % len(CLASS_NAMES)
        pieces = draw_pieces(label, radius, middle, random)
        return ShapeSource(self.size, label, torch.cat([middle, radius[:, None]], 1), pieces)


def draw_pieces(label: Tensor, radius: Tensor, middle: Tensor, random: torch.Generator) -> Pieces:
    """One solid in the whole ball, or two in overlapping balls of 0.72 of its radius."""
    num, union = len(label), label == UNION
    first = torch.randint(UNION, (num,), generator=random)
    second = (first + torch.randint(1, UNION, (num,), generator=random)) % UNION
    kind = torch.stack([label.where(~union, first), second.where(union, torch.tensor(NONE))], 1)
    u = torch.rand(2, num, 2, generator=random)
    dims = torch.stack([unit_dims(kind[:, i].clamp(0), u[i]) for i in range(2)], 1)
    away = torch.nn.functional.normalize(torch.randn(num, 3, generator=random), dim=1)
    away = away * torch.where(union, 0.28 * radius, 0.0)[:, None]
    reach = torch.where(union, 0.72, 1.0) * radius
    return Pieces(
        kind,
        dims * reach[:, None, None],
        rotations(2 * num, random).view(num, 2, 3, 3),
        torch.stack([middle + away, middle - away], 1),
    )

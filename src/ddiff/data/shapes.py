"""Rotated solids of six classes: labelled volumes for conditional models.

Each of the five solids is a function of coordinates in its own frame, which is True inside. `dims`
[n, 3] are half extents (a, b, c), z is the axis of revolution. Every solid drawn by `unit_dims`
fits in the unit ball about the origin and touches it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ddiff.data.conditions import Column, Picture
from ddiff.data.source import Source
from ddiff.data.spheres import SolidData
from ddiff.nets.conditions import TEXT
from ddiff.system.bounds import Count, Positive
from ddiff.system.random import generator

Solid = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def cube(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) <= a


def ellipsoid(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (x / a).square_() + (y / b).square_() + (z / c).square_() <= 1


def cylinder(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (x.square() + y.square() <= a.square()) & (z.abs() <= c)


def torus(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Torus: a is from the axis to the middle of the tube, c is the radius of the tube."""
    ring = (x.square() + y.square()).sqrt_() - a
    return ring.square_() + z.square() <= c.square()


def cone(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Cone with a base of radius a at z = -c and its apex at z = c."""
    width = (c - z) * (a / (2 * c))
    return (x.square() + y.square() <= width.square()) & (z.abs() <= c)


SOLIDS: tuple[Solid, ...] = (cube, ellipsoid, cylinder, torus, cone)


def unit_dims(kind: Tensor, u: Tensor) -> Tensor:
    """Return dims [n, 3] of solids of bounding radius 1, with proportions from u [n, 2] in [0, 1).

    kind: [n], index into SOLIDS.
    """
    one, u0, u1 = torch.ones_like(u[:, 0]), u[:, 0], u[:, 1]
    slope = torch.deg2rad(35 + 20 * u0)  # of the diagonal; flat to tall
    tube = 0.2 + 0.12 * u0
    table = [
        (one / 3**0.5,) * 3,
        (one, 0.4 + 0.4 * u0, 0.4 + 0.4 * u1),
        (slope.cos(), slope.cos(), slope.sin()),
        (1 - tube, 1 - tube, tube),
        (slope.cos(), slope.cos(), slope.sin()),
    ]
    every = torch.stack([torch.stack(dims, -1) for dims in table], 1)  # [n, 5, 3]
    return every[torch.arange(len(kind)), kind]


def rotations(num: int, random: torch.Generator) -> Tensor:
    """Draw uniform rotations [num, 3, 3], from unit quaternions."""
    q = normalize(torch.randn(num, 4, generator=random), dim=1)
    w, v = q[:, :1, None], q[:, 1:]
    cross = torch.linalg.cross(torch.eye(3)[None], v[:, None])  # cross @ u = v x u
    return torch.eye(3) + 2 * w * cross + 2 * cross @ cross  # Rodrigues, with w = cos(angle / 2)


CLASS_NAMES = [*(solid.__name__ for solid in SOLIDS), "union"]
UNION = len(SOLIDS)
NONE = -1
SIZES = ("small", "middle-sized", "large")  # thirds of the radii


@dataclass(frozen=True)
class Pieces:
    """Solids in voxel coordinates; a sample is the union of two slots, the second often empty."""

    kind: Tensor  # [N, 2] index into SOLIDS, or NONE
    dims: Tensor  # [N, 2, 3]
    rotation: Tensor  # [N, 2, 3, 3], its columns are the solid's own axes
    centre: Tensor  # [N, 2, 3]


class ShapeSource:
    """Source of volumes: +1 inside a shape, -1 outside.

    A volume is computed anew each time, only where the ball around its shape reaches.
    """

    def __init__(self, size: int, label: Tensor, ball: Tensor, pieces: Pieces) -> None:
        self.size, self.label, self.ball, self.pieces = size, label, ball, pieces
        middle, radius = ball[:, :3], ball[:, 3:]  # ball [N, 4]: its centre and radius
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
        """Return the voxels inside the shapes, bool [b, w, w, w], in the windows at `corner`."""
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
        """Voxels of the windows in the solid's frame, R^T (voxel - centre): three [b, w, w, w]."""
        axis = torch.arange(self.window) + self.corner[rows][..., None]  # [b, 3, w]
        offset = axis - self.pieces.centre[rows, slot][..., None]
        turned = self.pieces.rotation[rows, slot].mT[..., None] * offset[:, None]  # [b, 3, 3, w]
        d, h, w = turned.unbind(2)
        return [
            (d[:, k, :, None, None] + h[:, k, None, :, None]) + w[:, k, None, None]
            for k in range(3)
        ]


@dataclass(eq=False, repr=False)
class Shapes(SolidData):
    """Cube, ellipsoid, cylinder, torus, cone, and unions of two different ones.

    Proportions and rotation are uniform, as are size and position. Sample i has class i mod 6.
    """

    num_val: Count = 200
    radius_min: Positive = 0.25
    radius_max: Positive = 0.4
    num_classes = len(CLASS_NAMES)
    class_names = CLASS_NAMES

    def offered(self) -> list[str]:
        return ["radius", TEXT, *super().offered()]

    def told(self, name: str, source: Source) -> Column | Picture:
        """The radius of the ball around a shape as a part of the size; or its kind and size in
        words, such as "a large torus" or "a small cube joined with a cone"."""
        if name not in ("radius", TEXT):
            return super().told(name, source)
        assert isinstance(source, ShapeSource)
        if name == "radius":
            return source.ball[:, 3] / self.size
        low, high = self.radius_range
        third = ((source.ball[:, 3] - low) / max(high - low, 1e-9) * 3).long().clamp(0, 2)
        kinds = source.pieces.kind.tolist()
        return [caption(SIZES[k], *pair) for k, pair in zip(third.tolist(), kinds, strict=True)]

    def class_in(self, text: str) -> int | None:
        words = text.lower().split()
        named = [kind for kind, name in enumerate(CLASS_NAMES[:UNION]) if name in words]
        if len(named) == 2:
            return UNION
        return named[0] if len(named) == 1 else None

    def sources(self) -> tuple[ShapeSource, ShapeSource]:
        return self._draw(self.num, "train"), self._draw(self.num_val, "val")

    def _draw(self, num: int, split: str) -> ShapeSource:
        random = generator("cpu", self.seed, "shapes", split)
        radius = self.radii(num, random)
        middle = self.places(radius, random)
        label = torch.arange(num) % len(CLASS_NAMES)
        pieces = draw_pieces(label, radius, middle, random)
        return ShapeSource(self.size, label, torch.cat([middle, radius[:, None]], 1), pieces)


def caption(size: str, first: int, second: int) -> str:
    """Return a shape in words: its size, its kind and, of a union, the second kind."""
    one = f"a {size} {CLASS_NAMES[first]}"
    return one if second == NONE else f"{one} joined with a {CLASS_NAMES[second]}"


def draw_pieces(label: Tensor, radius: Tensor, middle: Tensor, random: torch.Generator) -> Pieces:
    """Draw one solid in the whole ball, or two in overlapping balls of 0.72 of its radius."""
    num, union = len(label), label == UNION
    first = torch.randint(UNION, (num,), generator=random)
    second = (first + torch.randint(1, UNION, (num,), generator=random)) % UNION
    kind = torch.stack([label.where(~union, first), second.where(union, torch.tensor(NONE))], 1)
    u = torch.rand(2, num, 2, generator=random)
    dims = torch.stack([unit_dims(kind[:, i].clamp(0), u[i]) for i in range(2)], 1)
    away = normalize(torch.randn(num, 3, generator=random), dim=1)
    away = away * torch.where(union, 0.28 * radius, 0.0)[:, None]
    reach = torch.where(union, 0.72, 1.0) * radius
    return Pieces(
        kind,
        dims * reach[:, None, None],
        rotations(2 * num, random).view(num, 2, 3, 3),
        torch.stack([middle + away, middle - away], 1),
    )

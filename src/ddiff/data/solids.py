"""Five solids in their own frame: who is inside, and how big they may be.

`dims` [n, 3] are half extents (a, b, c), z is the axis of revolution; every solid drawn by
`unit_dims` fits in the unit ball about the origin and touches it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Solid = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def cube(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.maximum(x.abs(), y.abs()), z.abs()) <= a


def ellipsoid(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (x / a).square_() + (y / b).square_() + (z / c).square_() <= 1


def cylinder(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (x.square() + y.square() <= a.square()) & (z.abs() <= c)


def torus(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a: from the axis to the middle of the tube; c: radius of the tube."""
    ring = (x.square() + y.square()).sqrt_() - a
    return ring.square_() + z.square() <= c.square()


def cone(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Base of radius a at z = -c, apex at z = c."""
    width = (c - z) * (a / (2 * c))
    return (x.square() + y.square() <= width.square()) & (z.abs() <= c)


SOLIDS: tuple[Solid, ...] = (cube, ellipsoid, cylinder, torus, cone)


def unit_dims(kind: Tensor, u: Tensor) -> Tensor:
    """Proportions from u [n, 2], uniform in [0, 1): dims [n, 3] of solids of bounding radius 1."""
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
    """Uniform rotations [num, 3, 3], from unit quaternions."""
    q = torch.nn.functional.normalize(torch.randn(num, 4, generator=random), dim=1)
    w, v = q[:, :1, None], q[:, 1:]
    zero = torch.zeros(num)
    cross = torch.stack(
        [zero, -v[:, 2], v[:, 1], v[:, 2], zero, -v[:, 0], -v[:, 1], v[:, 0], zero], 1
    ).view(num, 3, 3)
    return torch.eye(3) + 2 * w * cross + 2 * cross @ cross  # Rodrigues, with w = cos(angle / 2)

"""Solid spheres in a cube of voxels: the toy volume whose law is known exactly."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ddiff.data.base import BatchSize, Data, VoxelCount, Workers, at_least
from ddiff.system.bounds import Count, Positive, Seed
from ddiff.system.errors import ConfigError, nearest
from ddiff.system.random import generator

Centre = Literal["fixed", "random"]


class SphereSource:
    """Voxel (i, j, k) is +1 where |(i, j, k) - centre| <= radius, else -1; made anew each time.

    Only the parameters are kept: drawing a voxel again is faster than unpacking its bit.
    """

    def __init__(self, size: int, radius: Tensor, centre: Tensor) -> None:
        self.size, self.radius, self.centre = size, radius, centre  # [N], [N, 3] in voxels
        # 2 M voxels (8 volumes of 64^3) at once stay in the caches: 6 times as fast as 64 volumes
        self._chunk = max(1, 2**21 // size**3)

    def __len__(self) -> int:
        return len(self.radius)

    def batch(self, indices: Tensor) -> tuple[Tensor, None]:
        n = self.size
        axis = torch.arange(n, dtype=torch.float32)
        x = torch.empty(len(indices), 1, n, n, n)
        one = torch.ones(())
        for out, rows in zip(x.split(self._chunk), indices.split(self._chunk), strict=True):
            d2 = (axis - self.centre[rows][..., None]).square()  # [b, 3, n]
            left = self.radius[rows].square()[:, None, None] - d2[:, 0, :, None] - d2[:, 1, None]
            torch.sub(left[:, None, ..., None], d2[:, 2, None, None, None], out=out)
            torch.copysign(one, out, out=out)  # 0, the surface itself, is inside
        return x, None


class Spheres(Data):
    """Radius uniform in [radius_min, radius_max] x size, real-valued.

    Voxel i is the cube of side 1 around coordinate i, so the volume fills [-0.5, size - 0.5]^3:
    a `fixed` centre is its middle, (size - 1) / 2 on each axis, and a `random` one is uniform
    where the whole sphere stays inside.
    """

    def __init__(
        self,
        batch_size: BatchSize,
        seed: Seed,
        size: VoxelCount = 64,
        num: Count = 100_000,
        num_val: Count = 100,
        centre: Centre = "random",
        radius_min: Positive = 0.125,
        radius_max: Positive = 0.25,
        num_workers: Workers = None,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, flip)
        at_least(1, size=size, num=num, num_val=num_val)
        check_radii(radius_min, radius_max)
        if centre not in get_args(Centre):
            choices = list(get_args(Centre))
            raise ConfigError(f"data: centre is {centre!r}{nearest(str(centre), choices)}")
        self.shape = (1, size, size, size)
        self.size, self.num, self.num_val = size, num, num_val
        self.centre, self.radius_range = centre, (radius_min * size, radius_max * size)

    def sources(self) -> tuple[SphereSource, SphereSource]:
        return self._draw(self.num, "train"), self._draw(self.num_val, "val")

    def _draw(self, num: int, split: str) -> SphereSource:
        random = generator("cpu", self.seed, "spheres", split)
        low, high = self.radius_range
        radius = low + (high - low) * torch.rand(num, generator=random)
        centre = torch.full((num, 3), (self.size - 1) / 2)
        if self.centre == "random":
            centre += place(radius, self.size, random)
        return SphereSource(self.size, radius, centre)


def place(radius: Tensor, size: int, random: torch.Generator) -> Tensor:
    """Uniform offsets [N, 3] from the middle that keep balls of these radii in the volume."""
    room = size / 2 - radius[:, None]
    return room * (2 * torch.rand(len(radius), 3, generator=random) - 1)


def check_radii(radius_min: Positive, radius_max: Positive) -> None:
    if not (0 < radius_min <= radius_max <= 0.5) or math.isnan(radius_min + radius_max):
        raise ConfigError(
            f"data: radius_min {radius_min} and radius_max {radius_max} are parts of the size: "
            "0 < radius_min <= radius_max <= 0.5"
        )

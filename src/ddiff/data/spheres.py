"""Solid spheres in a cube of voxels: a toy data set whose law is known exactly."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ddiff.data.base import Data, VoxelCount, at_least
from ddiff.data.conditions import DERIVED, Column, Picture
from ddiff.data.source import Source
from ddiff.system.bounds import Count, Positive
from ddiff.system.errors import ConfigError, nearest
from ddiff.system.random import generator

Centre = Literal["fixed", "random"]
CENTRES = ("centre_z", "centre_y", "centre_x")


@dataclass(eq=False)
class SphereSource:
    """Source of spheres: voxel (i, j, k) is +1 if |(i, j, k) - centre| <= radius, else -1.

    Only the parameters are kept: computing a voxel again is faster than unpacking its bit.
    """

    size: int
    radius: Tensor  # [N] in voxels
    centre: Tensor  # [N, 3] in voxels

    def __len__(self) -> int:
        return len(self.radius)

    def batch(self, indices: Tensor) -> tuple[Tensor, None]:
        n = self.size
        axis = torch.arange(n, dtype=torch.float32)
        x = torch.empty(len(indices), 1, n, n, n)
        one = torch.ones(())
        # 2 M voxels (8 volumes of 64^3) at once stay in the caches: 6 times as fast as 64 volumes
        chunk = max(1, 2**21 // n**3)
        for out, rows in zip(x.split(chunk), indices.split(chunk), strict=True):
            d2 = (axis - self.centre[rows][..., None]).square()  # [b, 3, n]
            left = self.radius[rows].square()[:, None, None] - d2[:, 0, :, None] - d2[:, 1, None]
            torch.sub(left[:, None, ..., None], d2[:, 2, None, None, None], out=out)
            torch.copysign(one, out, out=out)  # 0, the surface itself, is inside
        return x, None


@dataclass(eq=False, repr=False)
class SolidData(Data):
    """Base class of solids drawn from the seed, each in a ball that lies in the volume.

    The radii are uniform in [radius_min, radius_max] x size. The centres are uniform where the
    whole ball stays inside.

    Voxel i is the cube of side 1 around coordinate i, so the volume fills [-0.5, size - 0.5]^3, and
    its middle is (size - 1) / 2 on each axis.
    """

    size: VoxelCount = 64
    num: Count = 100_000
    num_val: Count = 100
    radius_min: Positive = 0.125
    radius_max: Positive = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, size=self.size, num=self.num, num_val=self.num_val)
        if not 0 < self.radius_min <= self.radius_max <= 0.5:
            raise ConfigError(
                f"data: radius_min {self.radius_min} and radius_max {self.radius_max} are parts of "
                "the size: 0 < radius_min <= radius_max <= 0.5"
            )
        self.shape = (1, self.size, self.size, self.size)
        self.radius_range = (self.radius_min * self.size, self.radius_max * self.size)

    def radii(self, num: int, random: torch.Generator) -> Tensor:
        """Draw radii in voxels, [num]."""
        low, high = self.radius_range
        return low + (high - low) * torch.rand(num, generator=random)

    def places(self, radius: Tensor, random: torch.Generator) -> Tensor:
        """Draw centres [N, 3] for balls of these radii [N]."""
        room = self.size / 2 - radius[:, None]
        offset = room * (2 * torch.rand(len(radius), 3, generator=random) - 1)
        return (self.size - 1) / 2 + offset


@dataclass(eq=False, repr=False)
class Spheres(SolidData):
    """Solid spheres; a `fixed` centre is the middle of the volume."""

    centre: Centre = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centre not in (choices := list(get_args(Centre))):
            raise ConfigError(
                f"data: centre is {self.centre!r}{nearest(str(self.centre), choices)}"
            )

    def offered(self) -> list[str]:
        free = CENTRES if self.centre == "random" else ()
        return ["radius", *free, *super().offered()]

    def told(self, name: str, source: Source) -> Column | Picture:
        """Radius and centre are told as parts of the size, as `radius_min` is."""
        if name in DERIVED:
            return super().told(name, source)
        assert isinstance(source, SphereSource)
        if name == "radius":
            return source.radius / self.size
        return (source.centre[:, CENTRES.index(name)] + 0.5) / self.size

    def measured(self, name: str, x: Tensor) -> Tensor | None:
        """The radius of a ball of as many voxels, and the mean of their places."""
        if name in DERIVED:
            return super().measured(name, x)
        solid = x[:, 0] > 0
        number = solid.flatten(1).sum(1)
        if name == "radius":
            return (number * 3 / (4 * math.pi)) ** (1 / 3) / self.size
        others = [axis for axis in (1, 2, 3) if axis != 1 + CENTRES.index(name)]
        along = solid.sum(others)  # voxels at each place along the axis
        place = torch.arange(self.size) + 0.5
        return (along * place).sum(1) / number.clamp(min=1) / self.size

    def sources(self) -> tuple[SphereSource, SphereSource]:
        return self._draw(self.num, "train"), self._draw(self.num_val, "val")

    def _draw(self, num: int, split: str) -> SphereSource:
        random = generator("cpu", self.seed, "spheres", split)
        radius = self.radii(num, random)
        if self.centre == "random":
            return SphereSource(self.size, radius, self.places(radius, random))
        return SphereSource(self.size, radius, torch.full((num, 3), (self.size - 1) / 2))

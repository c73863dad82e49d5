"""Search for the solid of `data=shapes` that fits a volume best: its pose, size and proportions.

Unions are not judged: even the true one of the ten pairs of kinds is found by a search like this
one, in 16 numbers, in only half of the attempts.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddiff.data.shapes import SOLIDS, rotations, unit_dims
from ddiff.system.random import generator

STARTS = 512
# how far a pose moves at scale 1: centre and logarithm of the radius, proportions, rotation
REACH = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.5, 1.5, 1.5])


class _Stage(NamedTuple):
    """One stage of the search.

    Voxels are thinned until about `across` are left along the solid's longest side. In each of
    `steps` the best `kept` poses have `children`, which move by a scale that falls from `first` to
    `last`.
    """

    across: int
    kept: int
    children: int
    steps: int
    first: float
    last: float


STAGES = (_Stage(12, 12, 8, 14, 0.2, 0.02), _Stage(24, 4, 16, 8, 0.03, 0.004))


class _Poses(NamedTuple):
    """K poses of a solid."""

    centre: Tensor  # [K, 3] in voxels
    radius: Tensor  # [K] of the ball around the solid
    u: Tensor  # [K, 2] proportions, in [0, 1]
    rotation: Tensor  # [K, 3, 3], its columns are the solid's own axes

    def at(self, rows: Tensor) -> "_Poses":
        return _Poses(*(part[rows] for part in self))

    def moved(self, by: Tensor, limit: float) -> "_Poses":
        """Return the poses moved by `by` [K, 9], in the order of REACH; radii up to `limit`."""
        x, y, z = by[:, 6:].unbind(1)
        zero = torch.zeros_like(x)
        turn = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
        return _Poses(
            self.centre + by[:, :3] * self.radius[:, None],
            (self.radius * by[:, 3].exp()).clamp(max=limit),
            (self.u + by[:, 4:6]).clamp(0, 1),
            self.rotation @ torch.linalg.matrix_exp(turn),
        )


class _View(NamedTuple):
    """Thinned voxels of a window."""

    points: Tensor  # [P, 3] in voxels
    solid: Tensor  # [P]
    limit: float  # of radii: half the volume's shortest side

    def ious(self, kind: int, poses: _Poses) -> Tensor:
        held = _inside(kind, self.points, poses)
        common = (held & self.solid).sum(1)
        return common / (held.sum(1) + self.solid.sum() - common).clamp(min=1)


def best_solid(solid: np.ndarray, kind: int, seed: int = 0) -> float:
    """Best IoU of `solid` [D, H, W], boolean, with a solid of SOLIDS[kind].

    The solid may have any pose and proportions that `data=shapes` draws, and any size that fits in
    the volume. A search finds it: the figure is a lower bound. It is 0 for an empty volume. A full
    volume is no solid, for it is larger than any.
    """
    volume = torch.from_numpy(np.ascontiguousarray(solid))
    where = volume.nonzero().float()
    if not len(where):
        return 0.0
    random = generator("cpu", seed, "best_solid", kind)
    poses = _starts(kind, where.mean(0), len(where), random)
    corner, end = where.amin(0).long() - 2, where.amax(0).long() + 3
    for stage in STAGES:
        spacing = max(1, int((end - corner).max()) // stage.across)
        poses = _search(kind, _view(volume, corner, end, spacing), poses, stage, random)
    return float(_view(volume, corner, end, 1).ious(kind, poses).max())


def _view(volume: Tensor, corner: Tensor, end: Tensor, spacing: int) -> _View:
    ends = zip(corner.clamp(min=0).tolist(), end.tolist(), volume.shape, strict=True)
    axes = [torch.arange(low, min(high, n), spacing) for low, high, n in ends]
    solid = volume[torch.meshgrid(*axes, indexing="ij")].flatten()
    return _View(torch.cartesian_prod(*axes).float(), solid, min(volume.shape) / 2)


def _inside(kind: int, points: Tensor, poses: _Poses) -> Tensor:
    """Return the points [P, 3] that each solid holds, bool [K, P]."""
    rotation = poses.rotation.permute(2, 0, 1)  # [3, K, 3], first the solid's own axis
    own = rotation @ points.mT - (rotation * poses.centre).sum(2, keepdim=True)
    kinds = torch.full((len(poses.u),), kind)
    dims = unit_dims(kinds, poses.u) * poses.radius[:, None]
    return SOLIDS[kind](*own, *dims[..., None].unbind(1))


def _starts(kind: int, mass: Tensor, volume: int, random: torch.Generator) -> _Poses:
    """Return poses of any rotation and proportions that have this mass and volume.

    mass: the centre of mass [3]. volume: number of solid voxels.
    """
    u = torch.rand(STARTS, 2, generator=random)
    turned = rotations(STARTS, random)
    axis = torch.linspace(-1, 1, 13)
    grid = torch.cartesian_prod(axis, axis, axis)
    unturned = torch.eye(3).expand(STARTS, 3, 3)
    unit = _Poses(torch.zeros(STARTS, 3), torch.ones(STARTS), u, unturned)
    held = _inside(kind, grid, unit).float()
    count = held.sum(1, keepdim=True)
    radius = (volume / (count * (axis[1] - axis[0]) ** 3)) ** (1 / 3)
    offset = (turned @ (held @ grid / count)[..., None])[..., 0]  # of the mass, at radius 1
    return _Poses(mass - offset * radius, radius[:, 0], u, turned)


def _search(
    kind: int, view: _View, poses: _Poses, stage: _Stage, random: torch.Generator
) -> _Poses:
    """Improve poses by an evolution strategy.

    Parents and children compete, with steps that shrink geometrically.
    """

    def best(poses: _Poses) -> _Poses:
        return poses.at(view.ious(kind, poses).topk(stage.kept).indices)

    parents = torch.arange(stage.kept).repeat(stage.children)
    for scale in torch.logspace(np.log10(stage.first), np.log10(stage.last), stage.steps):
        by = scale * REACH * torch.randn(len(parents), len(REACH), generator=random)
        by[: stage.kept] = 0
        poses = best(poses).at(parents).moved(by, view.limit)
    return best(poses)

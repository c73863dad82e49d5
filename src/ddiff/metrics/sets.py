"""Distances between two sets of volumes, and metrics of these distances.

Volumes are compared by the voxels they fill, or by points on their surfaces. Metrics of distances
return one number for each item, whose mean is the figure, so that the items can be drawn again for
an interval. If several neighbours are equally near, as equal volumes are, the one that counts is
any of them with equal probability, and the number is the expectation.
"""

import numpy as np
import torch
from skimage.measure import marching_cubes
from torch import Tensor

from ddiff.data.opening import Stack
from ddiff.system.errors import DdiffError

VOXELS = 2**24  # at once, as float32, of each of two blocks: 64 volumes of 64^3, 64 MiB
PAIRS = 2**19  # of points at once: as many as fit in the caches
NOWHERE = -1.0


def packed(stack: Stack, most: int) -> Tensor:
    """Return the solids of the first `most` volumes as bits, one a voxel."""
    return torch.cat([pack(x > 0) for x, _ in stack.chunks(most)])


def pack(solid: Tensor) -> Tensor:
    """Pack boolean volumes [N, ...] as bits: uint8 [N, ceil(voxels / 8)], 32 KiB for 64^3."""
    return torch.from_numpy(np.packbits(solid.flatten(1).numpy(), axis=1))


def iou_distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances 1 - IoU of the packed volumes `a` from the packed volumes `b`, [N, M] float64.

    Two empty volumes have distance 0.
    """
    block = max(1, VOXELS // (8 * a.shape[1]))
    rows = []
    for left in a.split(block):
        x = _unpacked(left)
        sizes, columns = x.sum(1)[:, None], []
        for right in b.split(block):
            y = _unpacked(right)
            common = (x @ y.mT).double()  # whole numbers below 2^24: exact
            union = sizes + y.sum(1) - common
            columns.append(torch.where(union > 0, 1 - common / union, 0.0))
        rows.append(torch.cat(columns, 1))
    return torch.cat(rows)


def _unpacked(packed: Tensor) -> Tensor:
    """Return the bits as floats, one for each."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1)).float()


def surface_points(volume: Tensor, num: int, random: torch.Generator) -> Tensor:
    """Draw points [num, 3], uniform on the surface where `volume` [D, H, W] passes 0.

    The surface is found by marching cubes. The volume fills [0, 1] along its longest side, and all
    beyond it is empty.

    The points of an empty volume are all at (-1, -1, -1): as far from any other volume's as two
    volumes can be, and at distance 0 from another empty one's.
    """
    padded = np.pad(volume.float().numpy(), 1, constant_values=-1.0)
    if not (padded > 0).any():
        return torch.full((num, 3), NOWHERE)
    vertices, faces, *_ = marching_cubes(padded, 0.0)
    corners = torch.from_numpy(vertices[faces])  # [triangles, 3, 3]
    edges = corners[:, 1:] - corners[:, :1]
    areas = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=1)
    chosen = torch.multinomial(areas.double(), num, replacement=True, generator=random)
    u = torch.rand(num, 2, 1, generator=random)
    u = torch.where(u.sum(1, keepdim=True) > 1, 1 - u, u)  # the half of a parallelogram
    points = corners[chosen, 0] + (u * edges[chosen]).sum(1)
    # padded voxel i + 1 is the cube around coordinate i
    return (points - 0.5) / max(volume.shape)


def chamfer_distances(a: Tensor, b: Tensor) -> Tensor:
    """Chamfer distances of the point sets `a` [N, P, 3] from `b` [M, Q, 3], [N, M].

    A distance is the mean of both directions' mean squared distance to the nearest point.
    """
    distances = a.new_empty(len(a), len(b))
    block = max(1, PAIRS // (a.shape[1] * b.shape[1]))
    scratch = a.new_empty(2, min(block, len(b)), a.shape[1], b.shape[1])
    for first in range(0, len(b), block):
        y = b[first : first + block, None].unbind(3)  # [block, 1, Q], thrice
        squared, term = scratch[:, : len(y[0])]
        for row, points in zip(distances, a, strict=True):
            x = points[:, :, None].unbind(1)  # [P, 1], thrice
            # not |x|^2 + |y|^2 - 2 x.y: equal points have distance 0, and equal sets tie
            torch.sub(x[0], y[0], out=squared).square_()
            for axis in (1, 2):
                squared += torch.sub(x[axis], y[axis], out=term).square_()
            there, back = squared.amin(2).mean(1), squared.amin(1).mean(1)
            torch.add(there, back, out=row[first : first + block]).div_(2)
    return distances


def coverage(d_ref_gen: np.ndarray) -> np.ndarray:
    """Probability [R] that a reference is the nearest one of a generated sample.

    d_ref_gen: distances [R, G] of references to generated samples (Achlioptas et al. 2018).
    """
    nearest = d_ref_gen == d_ref_gen.min(0)
    return 1 - np.prod(1 - nearest / nearest.sum(0), axis=1)


def one_nearest_neighbour_accuracy(
    d_aa: np.ndarray, d_ab: np.ndarray, d_bb: np.ndarray
) -> np.ndarray:
    """Probability that an item's nearest neighbour is of its own set, [2 N]: items of a, then of b.

    The arguments are distances [N, N] (Lopez-Paz and Oquab 2017; Yang et al. 2019). Two samples of
    one law have mean (N - 1) / (2 N - 1), just below one half. Raises DdiffError for sets of
    unequal size.
    """
    if not d_aa.shape == d_ab.shape == d_bb.shape or d_aa.shape[0] < 2:
        raise DdiffError(
            "1-NN accuracy compares two sets of equal number, 2 or more: got distances "
            f"{d_aa.shape}, {d_ab.shape} and {d_bb.shape}"
        )
    return np.concatenate([_own_share(d_aa, d_ab), _own_share(d_bb, d_ab.T)])


def _own_share(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    own = np.where(np.eye(len(own), dtype=bool), np.inf, own)
    nearest = np.minimum(own.min(1), other.min(1))[:, None]
    ours, theirs = (own == nearest).sum(1), (other == nearest).sum(1)
    return ours / (ours + theirs)

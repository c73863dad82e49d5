"""Distances against loops, points against the surface they lie on."""

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ddiff.metrics import sets
from ddiff.metrics.sets import chamfer_distances, iou_distances, pack, surface_points
from ddiff.metrics.spheres import uniform_test
from ddiff.system.random import generator


def ball(size: int, radius: float, sharp: bool = True) -> Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    r = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return (radius - r).sign() if sharp else (radius - r).clamp(-1, 1)


@pytest.mark.parametrize("voxels", [64, 125])  # whole bytes, and not
@pytest.mark.parametrize("at_once", [2**24, 300])
def test_iou_against_loops(voxels: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "VOXELS", at_once)
    random = np.random.default_rng(0)
    a, b = random.random((5, voxels)) > 0.6, random.random((7, voxels)) > 0.3
    a[0] = b[0] = False
    a[1] = b[1]
    expected = [[1 - (x & y).sum() / (x | y).sum() if (x | y).any() else 0.0 for y in b] for x in a]
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    np.testing.assert_allclose(iou_distances(pack(x), pack(y)), expected, rtol=1e-15)
    assert expected[0][0] == expected[1][1] == 0
    assert expected[0][1] == 1


def test_packed_volumes_come_back() -> None:
    solid = torch.rand(3, 1, 5, 6, 7, generator=generator("cpu", 0)) > 0.5
    packed = pack(solid)
    assert packed.shape == (3, 27)  # 210 voxels
    assert packed.dtype == torch.uint8
    bits = np.unpackbits(packed.numpy(), axis=1, count=210)
    assert np.array_equal(bits.reshape(3, 1, 5, 6, 7), solid.numpy())
    assert pack(torch.ones(1, 64, 64, 64, dtype=torch.bool)).shape == (1, 32768)


@pytest.mark.parametrize("pairs", [2**19, 40])
def test_chamfer_against_trees(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "PAIRS", pairs)
    random = np.random.default_rng(1)
    a, b = random.random((4, 6, 3)), random.random((5, 9, 3))
    expected = [
        [((KDTree(y).query(x)[0] ** 2).mean() + (KDTree(x).query(y)[0] ** 2).mean()) / 2 for y in b]
        for x in a
    ]
    found = chamfer_distances(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # equal sets have distance 0, and what is as far is exactly as far
    twice = torch.from_numpy(random.random((1, 64, 3))).float().expand(3, -1, -1)
    assert chamfer_distances(twice, twice).eq(0).all()
    one = torch.from_numpy(random.random((1, 64, 3))).float()
    assert chamfer_distances(one, twice).unique().numel() == 1


def test_points_lie_on_the_sphere_and_are_uniform() -> None:
    size, radius = 24, 7.3
    points = surface_points(ball(size, radius, sharp=False), 20_000, generator("cpu", 2))
    offset = (points - 0.5) * size  # Archimedes: each coordinate of a uniform point is uniform
    np.testing.assert_allclose(offset.norm(dim=1), radius, atol=0.06)
    for axis in range(3):
        assert uniform_test(offset[:, axis].numpy(), -radius, radius)[1] > 0.001
    again = surface_points(ball(size, radius, sharp=False), 20_000, generator("cpu", 2))
    assert torch.equal(points, again)


def test_points_of_voxels_lie_between_them() -> None:
    points = surface_points(ball(16, 5.0), 1000, generator("cpu", 3))
    assert ((points - 0.5) * 16).norm(dim=1).sub(5.0).abs().max() < 0.9


def test_a_full_volume_has_its_border_for_a_surface() -> None:
    points = surface_points(torch.ones(16, 16, 16), 3000, generator("cpu", 4))
    outermost = (points - 0.5).abs().amax(1)
    assert outermost.min() > 0.5 - 1.1 / 16  # marching cubes cut the corners off
    assert outermost.max() <= 0.5 + 1e-6
    faces = [
        (points[:, axis] - side).abs().lt(1e-3).float().mean()
        for axis in range(3)
        for side in (0, 1)
    ]
    np.testing.assert_allclose(faces, 1 / 6, atol=0.04)


def test_an_empty_volume_is_far_from_all_and_equal_to_another() -> None:
    random = generator("cpu", 5)
    corners = -torch.ones(2, 8, 8, 8)
    corners[0, 0, 0, 0] = corners[1, 7, 7, 7] = 1
    volumes = [-torch.ones(8, 8, 8), *corners, torch.ones(8, 8, 8), ball(8, 2.5)]
    points = torch.stack([surface_points(v, 64, random) for v in volumes])
    d = chamfer_distances(points, points)
    assert d[0, 0] == 0
    assert d[0, 1:].min() > d[1:, 1:].max()

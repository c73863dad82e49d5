import math

import pytest
import torch

from ddiff.data import Shapes
from ddiff.data.shapes import CLASS_NAMES, SOLIDS, rotations, unit_dims


@pytest.fixture(scope="module")
def data():
    data = Shapes(batch_size=8, seed=1, num=120, num_val=12)
    data.setup("fit")
    return data


def volume(kind, a, b, c):
    return (
        8 * a**3,
        4 / 3 * math.pi * a * b * c,
        2 * math.pi * a**2 * c,
        2 * math.pi**2 * a * c**2,
        2 / 3 * math.pi * a**2 * c,
    )[kind]


@pytest.mark.parametrize("kind", range(5))
def test_volumes_are_the_analytic_ones(data, kind):
    chosen = (data.train.label == kind).nonzero()[:, 0]
    x, y = data.train.batch(chosen)
    assert (y == kind).all()
    counted = (x == 1).sum((1, 2, 3, 4)).double()
    dims = data.train.pieces.dims[chosen, 0].double()
    expected = torch.tensor([volume(kind, *row) for row in dims.tolist()])
    ratio = counted / expected
    assert (ratio - 1).abs().max() < 0.06
    assert abs(float(ratio.mean()) - 1) < 0.01


def test_a_union_is_the_union_of_its_solids(data):
    chosen = (data.train.label == 5).nonzero()[:, 0]
    x, _ = data.train.batch(chosen)
    pieces = data.train.pieces
    kinds = pieces.kind[chosen]
    assert (kinds[:, 0] != kinds[:, 1]).all()
    assert (kinds >= 0).all()
    alone = torch.tensor(
        [
            [volume(int(pieces.kind[i, s]), *pieces.dims[i, s].tolist()) for s in range(2)]
            for i in chosen
        ]
    )
    counted = (x == 1).sum((1, 2, 3, 4))
    assert (counted <= 1.06 * alone.sum(1)).all()
    assert (counted >= 0.94 * alone.max(1).values).all()
    assert (counted < 0.97 * alone.sum(1)).float().mean() > 0.5  # most overlap


def test_everything_is_inside_its_ball_and_the_ball_in_the_volume(data):
    x, _ = data.train.batch(torch.arange(30))
    axis = torch.arange(64.0)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    middle, radius = data.train.ball[:, :3], data.train.ball[:, 3]
    assert (middle - radius[:, None]).min() >= -0.5 - 1e-4
    assert (middle + radius[:, None]).max() <= 63.5 + 1e-4
    assert 16 <= radius.min() < radius.max() <= 25.6
    for i in range(30):
        inside = grid[:, x[i, 0] == 1] - middle[i][:, None]
        assert inside.norm(dim=0).max() <= radius[i] + 1e-3
        assert inside.norm(dim=0).max() >= 0.6 * radius[i]


def test_a_window_is_only_an_economy(data):
    wide = Shapes(batch_size=8, seed=1, num=12, num_val=1)
    wide.setup("fit")
    narrow = wide.train.batch(torch.arange(12))[0]
    wide.train.window, wide.train.corner = 64, torch.zeros_like(wide.train.corner)
    assert torch.equal(wide.train.batch(torch.arange(12))[0], narrow)


def test_a_torus_has_a_hole_and_a_tube(data):
    chosen = (data.train.label == 3).nonzero()[:, 0]
    x, _ = data.train.batch(chosen)
    for volume, i in zip(x, chosen.tolist(), strict=True):
        centre = data.train.pieces.centre[i, 0]
        major = data.train.pieces.dims[i, 0, 0]
        across = data.train.pieces.rotation[i, 0, :, 0]  # the torus's own x axis, in voxels
        assert volume[0][tuple(centre.round().long())] == -1
        for side in (-1, 1):
            assert volume[0][tuple((centre + side * major * across).round().long())] == 1


def test_rotations_are_rotations_and_uniform():
    turned = rotations(20000, torch.Generator().manual_seed(0))
    assert torch.allclose(turned @ turned.mT, torch.eye(3).expand_as(turned), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turned), torch.ones(20000), atol=1e-5)
    assert turned.mean(0).abs().max() < 0.02  # E[R] = 0
    assert (turned.square().mean(0) - 1 / 3).abs().max() < 0.01
    trace = turned.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.square().mean()) - 1) < 0.05  # E[tr R] = 0, E[(tr R)^2] = 1 under Haar


@pytest.mark.parametrize("kind", range(5))
def test_solids_touch_the_unit_ball(kind):
    dims = unit_dims(torch.full((8,), kind), torch.rand(8, 2, generator=torch.Generator()))
    points = torch.randn(3, 400_000, generator=torch.Generator().manual_seed(1))
    points = points / points.norm(dim=0) * torch.linspace(0.9, 1.1, 400_000)
    for row in dims:
        inside = points[:, SOLIDS[kind](*points, *row)]
        assert 0.97 < inside.norm(dim=0).max() <= 1.0001


def test_classes_are_balanced_and_named(data):
    assert data.class_names == CLASS_NAMES
    assert data.class_names == ["cube", "ellipsoid", "cylinder", "torus", "cone", "union"]
    assert data.num_classes == 6
    assert torch.bincount(data.train.label).tolist() == [20] * 6

import math

import numpy as np
import pytest

from ddiff.pages.view.pictures import PAPER, shade, shade_rgba, volume_grid
from ddiff.pages.view.rays import Scene, camera, march
from ddiff.system.errors import ConfigError, DdiffError
from tests.pages.view.solids import ball


def outline(volume, size=160, azimuth=0.0, elevation=0.0):
    """[size, size] bool: where the solid is seen."""
    view = camera(volume.shape, size, azimuth, elevation)
    middle = (np.arange(size, dtype=np.float32) + 0.5 - size / 2) / view.pixels_per_voxel
    v, u = (axis.ravel() for axis in np.meshgrid(-middle, middle, indexing="ij"))
    scene = Scene.of(volume)
    centre = (np.array(scene.field.shape, np.float32) - 1)[:, None] / 2
    start = centre + view.right[:, None] * u + view.up[:, None] * v
    return np.isfinite(march(scene, start, -view.toward)).reshape(size, size)


def middle_of(mask):
    """(right, up) of the outline's middle, in pixels from the centre of the picture."""
    rows, columns = np.nonzero(mask)
    return columns.mean() - (mask.shape[1] - 1) / 2, (mask.shape[0] - 1) / 2 - rows.mean()


@pytest.mark.parametrize("elevation", [0, 25, 90])
@pytest.mark.parametrize(("radius", "hard"), [(16.0, False), (9.3, False), (16.0, True)])
def test_outline_of_a_ball_has_area_pi_r_squared(radius, hard, elevation):
    volume = ball(radius)
    if hard:
        volume = np.where(volume > 0, 1, -1).astype(np.float32)
    radius_in_pixels = radius * camera(volume.shape, 160, 0, elevation).pixels_per_voxel
    area = outline(volume, azimuth=33, elevation=elevation).sum()
    assert area == pytest.approx(math.pi * radius_in_pixels**2, rel=0.03)


def test_outline_of_a_ball_is_symmetric():
    mask = outline(ball(16.0), azimuth=20, elevation=25)
    assert (mask != mask[:, ::-1]).sum() <= 0.005 * mask.sum()
    assert middle_of(mask) == pytest.approx((0, 0), abs=0.1)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "centre", "right", "up"),
    [
        (0, 0, (10, 0, 0), 10, 0),
        (90, 0, (10, 0, 0), 0, 0),
        (180, 0, (10, 0, 0), -10, 0),
        (90, 0, (0, 10, 0), 10, 0),
        (30, 0, (10, 0, 0), 10 * math.cos(math.pi / 6), 0),
        (0, 0, (0, 0, 7), 0, 7),
        (0, 90, (0, 10, 0), 0, 10),
        (0, 30, (0, 10, 0), 0, 5),
    ],
)
def test_an_off_centre_ball_is_where_the_angles_put_it(azimuth, elevation, centre, right, up):
    volume = ball(8.0, centre=centre)
    scale = camera(volume.shape, 160, azimuth, elevation).pixels_per_voxel
    found = middle_of(outline(volume, 160, azimuth, elevation))
    assert found == pytest.approx((right * scale, up * scale), abs=0.4)


def test_a_nearer_ball_hides_a_farther_one():
    both = np.maximum(ball(6.0, centre=(0, -14, 0)), ball(6.0, centre=(0, 14, 0)))
    np.testing.assert_array_equal(outline(both), outline(ball(6.0, centre=(0, -14, 0))))


def test_light_falls_from_the_upper_left():
    still = shade(ball(16.0), 160, 0, 10).astype(float).sum(axis=2)
    assert still[60, 60] > 1.15 * still[100, 100]


def test_empty_volume_is_paper_floor_and_a_mark():
    still = shade(np.full((16, 16, 16), -1.0), 96)
    np.testing.assert_array_equal(still[:20], np.broadcast_to(PAPER, (20, 96, 3)))
    mark = still[36:60].astype(int).max(axis=2) < 190
    assert 20 < mark.sum() < 600


def test_full_volume_is_the_whole_cube():
    view = camera((32, 32, 32), 200, 0, 0)
    side = 32 * view.pixels_per_voxel  # the surface lies half a voxel beyond the last centre
    assert outline(np.ones((32, 32, 32)), 200).sum() == pytest.approx(side**2, rel=0.02)


def test_one_voxel_and_a_plate_one_voxel_thin_are_seen():
    lone, plate = np.full((2, 16, 16, 16), -1.0)
    lone[8, 8, 8] = plate[8, 2:14, 2:14] = 1
    voxel = camera(lone.shape, 160, 0, 90).pixels_per_voxel ** 2  # pixels of a voxel's face
    assert outline(lone, elevation=90).sum() > 0.2 * voxel
    assert outline(plate, elevation=90).sum() == pytest.approx(12**2 * voxel, rel=0.1)


def test_a_transparent_still_is_opaque_on_the_solid_only():
    alpha = shade_rgba(ball(16.0), 160, 0, 0)[..., 3]
    solid = outline(ball(16.0))
    assert alpha[80, 80] == 255
    assert (alpha[~solid] == 0).mean() > 0.97
    assert (alpha[solid] == 255).mean() > 0.95


def test_odd_shapes_and_noise_are_drawn():
    noise = np.random.default_rng(0).normal(size=(9, 14, 5)).astype(np.float32)
    assert outline(noise, azimuth=40, elevation=-30).mean() > 0.03
    assert shade(noise, 64, 40, -30).std() > 10


def test_volume_grid_places_stills_row_by_row():
    samples = np.stack([ball(5.0, 16), ball(3.0, 16), np.full((16,) * 3, -1.0)])[:, None]
    grid = volume_grid(samples, columns=2, size=64)
    assert grid.shape == (2 * 66 + 2, 2 * 66 + 2, 3)
    np.testing.assert_array_equal(grid[2:66, 68:132], shade(samples[1], 64))
    np.testing.assert_array_equal(grid[68:132, 2:66], shade(samples[2], 64))


def test_bad_volumes_and_views_are_one_line():
    with pytest.raises(DdiffError, match="volumes must be"):
        volume_grid(np.zeros((2, 2, 3, 4, 4, 4)))
    with pytest.raises(DdiffError, match="NaN"):
        shade(np.full((4, 4, 4), np.nan))
    with pytest.raises(ConfigError, match="elevation=91"):
        shade(np.zeros((4, 4, 4)), elevation=91)

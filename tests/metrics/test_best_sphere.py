"""The judge of spheres, judged."""

import numpy as np
import pytest

from ddiff.metrics.spheres import best_sphere, radius_interval


def ball(size: int, centre: np.ndarray | list[float], radius: float) -> np.ndarray:
    z, y, x = np.ogrid[:size, :size, :size]
    return (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("size", [24, 31])
@pytest.mark.parametrize("known", [False, True])
def test_a_sphere_in_the_middle_is_found_exactly(size: int, known: bool) -> None:
    middle = np.full(3, (size - 1) / 2)
    for radius in np.random.default_rng(0).uniform(size / 8, size / 2, 10):
        solid = ball(size, middle, radius)
        fit = best_sphere(solid, middle if known else None)
        low, high = radius_interval(solid.shape, fit.centre, fit.radius)
        assert fit.iou == 1
        np.testing.assert_allclose(fit.centre, middle, atol=1e-9)
        assert low <= radius < high
        assert low <= fit.radius < high
        assert high - low < 0.5


def test_every_radius_of_an_interval_gives_one_volume() -> None:
    centre, radius = np.array([11.5, 11.5, 11.5]), 5.0
    low, high = radius_interval((24, 24, 24), centre, radius)
    inside = ball(24, centre, radius)
    for same in (low + 1e-9, (low + high) / 2, high - 1e-9):
        assert (ball(24, centre, same) == inside).all()
    for other in (low - 1e-9, high + 1e-9):
        assert (ball(24, centre, other) != inside).any()
    # squared distances are whole numbers and 3/4: 24.75 is (4.5, 1.5, 1.5), 26.75 (4.5, 2.5, 0.5)
    assert (low**2, high**2) == (pytest.approx(24.75), pytest.approx(26.75))


def test_spheres_anywhere_are_found() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        radius = random.uniform(6, 12)
        centre = 23.5 + random.uniform(-1, 1, 3) * (24 - radius)
        fit = best_sphere(ball(48, centre, radius))
        assert fit.iou > 0.99
        np.testing.assert_allclose(fit.centre, centre, atol=0.06)
        assert fit.radius == pytest.approx(radius, abs=0.03)


@pytest.mark.parametrize(
    ("centre", "worst"),
    [
        ([2.0, 20.3, 22.1], 0.1),
        ([3.2, 4.1, 25.0], 0.1),
        ([1.0, 2.3, 1.7], 0.5),
        ([47, 24, 24], 0.1),
    ],
)
def test_spheres_cut_by_the_border_are_found(centre: list[float], worst: float) -> None:
    fit = best_sphere(ball(48, centre, 9.3))
    assert fit.iou > 0.98
    np.testing.assert_allclose(fit.centre, centre, atol=worst)
    assert fit.radius == pytest.approx(9.3, abs=worst)


def test_a_cap_of_a_sphere_about_a_centre_outside_is_found() -> None:
    """From its centre of mass alone the search ends at 0.65 and 0.79."""
    for centre in ([-4.0, 20.0, -3.5], [-2.0, -2.5, -3.0]):
        assert best_sphere(ball(48, centre, 9.3)).iou > 0.85


def test_flipped_voxels_cost_iou_and_nothing_else() -> None:
    random = np.random.default_rng(2)
    for centre in ([20.2, 27.4, 22.9], [3.0, 24.0, 20.0]):  # the second is cut
        clean = ball(48, centre, 10.4)
        noisy = clean ^ (random.random(clean.shape) < 0.003)
        fit = best_sphere(noisy)
        assert fit.iou >= overlap(noisy, clean) - 0.005
        assert fit.iou < 0.95
        np.testing.assert_allclose(fit.centre, centre, atol=0.15)
        assert fit.radius == pytest.approx(10.4, abs=0.1)


def test_the_iou_is_the_one_of_the_sphere_returned() -> None:
    random = np.random.default_rng(3)
    for _ in range(5):
        coarse = random.normal(size=(6, 6, 6)) > 0.3
        solid = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)
        fit = best_sphere(solid)
        assert fit.iou == pytest.approx(overlap(solid, ball(24, fit.centre, fit.radius)))


def test_the_radius_about_a_known_centre_is_the_best_of_all() -> None:
    random = np.random.default_rng(4)
    centre = np.array([8.1, 7.3, 6.9])
    solid = ball(16, centre + 1, 4.5) ^ (random.random((16, 16, 16)) < 0.05)
    fit = best_sphere(solid, centre)
    brute = [overlap(solid, ball(16, centre, r)) for r in np.linspace(0.5, 8, 3000)]
    assert fit.iou == pytest.approx(max(brute))


def test_what_is_no_sphere_is_refused() -> None:
    empty = np.zeros((32, 32, 32), dtype=bool)
    assert best_sphere(empty).iou == 0
    assert best_sphere(empty).radius == 0
    assert best_sphere(empty, np.zeros(3)).iou == 0
    full = best_sphere(~empty)
    assert full.iou == pytest.approx(np.pi / 6, abs=0.01)  # the ball inside the cube
    assert full.radius <= 16
    cube = empty.copy()
    cube[8:24, 8:24, 8:24] = True
    # a cube of half side 1 and a ball of radius 1.24, six caps of which stick out, share 6.73
    assert best_sphere(cube).iou == pytest.approx(6.73 / 9.26, abs=0.015)
    two = ball(32, [16, 16, 8], 5) | ball(32, [16, 16, 24], 5)
    assert best_sphere(two).iou == pytest.approx(0.5, abs=0.02)
    assert best_sphere(np.random.default_rng(0).random((32, 32, 32)) > 0.5).iou < 0.5


def test_one_voxel_is_a_small_sphere() -> None:
    one = np.zeros((8, 8, 8), dtype=bool)
    one[2, 0, 5] = True
    fit = best_sphere(one)
    assert fit.iou == 1
    np.testing.assert_array_equal(fit.centre, [2, 0, 5])
    assert fit.radius == 0.5

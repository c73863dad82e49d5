"""The judge of spheres, judged."""

import numpy as np
import pytest

from tests.support.spheres import ball, best_sphere, valid_share


def test_exact_spheres_fit_wherever_they_are() -> None:
    for centre, radius in (([15.5, 15.5, 15.5], 6.0), ([12.2, 17.9, 14.4], 4.3), ([2, 16, 16], 5)):
        score, found, r = best_sphere(ball(32, np.array(centre), radius) * 2.0 - 1)
        assert score > 0.97
        assert np.abs(found - centre).max() < 0.5
        assert r == pytest.approx(radius, abs=0.3)


def test_what_is_no_sphere_is_refused() -> None:
    empty, full = -np.ones((32, 32, 32)), np.ones((32, 32, 32))
    cube = empty.copy()
    cube[8:24, 8:24, 8:24] = 1
    two = np.maximum(
        ball(32, np.array([16, 16, 8]), 5) * 2.0 - 1, ball(32, np.array([16, 16, 24]), 5) * 2.0 - 1
    )
    noise = np.random.default_rng(0).normal(size=(32, 32, 32))
    flat = empty.copy()
    flat[14:18, 8:24, 8:24] = 1
    volumes = np.stack([empty, full, cube, two, noise, flat])[:, None]
    assert valid_share(volumes) == 0
    assert 0.7 < best_sphere(cube)[0] < 0.8  # the ball of equal volume overlaps a cube so far

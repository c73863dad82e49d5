"""Pieces, volume and surface against closed forms."""

import numpy as np
import pytest

from ddiff.metrics.by_volumes import surface_area, topology


def inside(size: int, formula: str, turn: np.ndarray | None = None) -> np.ndarray:
    grid = np.indices((size,) * 3).reshape(3, -1) - (size - 1) / 2
    z, y, x = (np.eye(3) if turn is None else turn) @ grid
    return eval(formula, {"np": np, "x": x, "y": y, "z": z}).reshape((size,) * 3)


@pytest.mark.parametrize("radius", [5.2, 8.0, 12.7])
def test_a_ball(radius: float) -> None:
    measured = topology(
        inside(30, f"(x - 0.1) ** 2 + (y - 0.3) ** 2 + (z + 0.2) ** 2 <= {radius**2}")
    )
    assert measured.components == 1
    assert measured.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert measured.surface == pytest.approx(4 * np.pi * radius**2, rel=0.02)


def test_turned_boxes() -> None:
    """Flat faces are the hard case: 13 directions see each of them a little wrong."""
    random = np.random.default_rng(0)
    turns = [np.linalg.qr(random.normal(size=(3, 3)))[0] for _ in range(20)]
    box = "(abs(x) <= 10) & (abs(y) <= 7) & (abs(z) <= 5)"
    measured = [topology(inside(32, box, turn)) for turn in turns]
    exact = 8 * (10 * 7 + 10 * 5 + 7 * 5)
    surfaces = np.array([m.surface for m in measured])
    np.testing.assert_allclose(surfaces, exact, rtol=0.08)
    assert surfaces.mean() == pytest.approx(exact, rel=0.05)
    assert np.mean([m.volume for m in measured]) == pytest.approx(8 * 350, rel=0.02)
    assert {m.components for m in measured} == {1}


def test_surface_counts_both_sides_of_a_shell_and_the_border() -> None:
    shell = inside(30, "(x*x + y*y + z*z <= 12**2) & (x*x + y*y + z*z > 8**2)")
    assert surface_area(shell) == pytest.approx(4 * np.pi * (12**2 + 8**2), rel=0.02)
    ball = inside(30, "x*x + y*y + z*z <= 12**2")
    half = ball[15:]  # its flat side is the border of the volume
    assert surface_area(half) == pytest.approx(3 * np.pi * 12**2, rel=0.06)
    # one line in each direction crosses a voxel's face: 2 (w1 + 4 w2 / sqrt(2) + 4 w3 / sqrt(3))
    slab = np.ones((2, 400, 400), dtype=bool)
    assert surface_area(slab) / (2 * 400**2) == pytest.approx(0.9266, abs=0.01)


def test_pieces() -> None:
    solid = np.zeros((12, 12, 12), dtype=bool)
    assert topology(solid).components == topology(solid).volume == topology(solid).surface == 0
    solid[1:4, 1:4, 1:4] = True
    solid[4, 4, 4] = True  # shares a corner
    assert topology(solid).components == 1
    solid[10, 10, 10] = True
    assert topology(solid).components == 2
    assert topology(solid).volume == 29
    assert topology(~solid).components == 1

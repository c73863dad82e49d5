"""True samples fit; other solids, noise and nothing do not."""

import numpy as np
import pytest
import torch

from ddiff.data.shapes import CLASS_NAMES, SOLIDS, UNION, Shapes
from ddiff.metrics.solids import best_solid

EACH = 5


def best_kind(solid: np.ndarray) -> tuple[int, float]:
    """The kind that fits best, and its IoU."""
    scores = [best_solid(solid, kind) for kind in range(len(SOLIDS))]
    return int(np.argmax(scores)), max(scores)


@pytest.fixture(scope="module")
def volumes() -> np.ndarray:
    """[EACH, class, D, H, W]"""
    data = Shapes(1, seed=0, size=32, num=EACH * len(CLASS_NAMES))
    source, _ = data.sources()
    x, _ = source.batch(torch.arange(len(source)))
    return x.view(EACH, len(CLASS_NAMES), *x.shape[2:]).numpy() > 0


@pytest.mark.parametrize("kind", range(UNION), ids=CLASS_NAMES[:UNION])
def test_true_samples_fit_and_their_kind_is_found(volumes: np.ndarray, kind: int) -> None:
    assert min(best_solid(solid, kind) for solid in volumes[:, kind]) > 0.9
    found, iou = best_kind(volumes[0, kind])
    assert found == kind
    assert iou == best_solid(volumes[0, kind], kind)


def test_iou_of_an_axis_aligned_cube_is_nearly_one() -> None:
    solid = np.zeros((24, 24, 24), dtype=bool)
    solid[5:15, 8:18, 3:13] = True
    assert best_solid(solid, CLASS_NAMES.index("cube")) > 0.97
    # the ball, u -> 1/2 of it, is no ellipsoid of the family: half axes are 1 and 0.4 to 0.8
    assert best_solid(solid, CLASS_NAMES.index("ellipsoid")) < 0.8


def test_unions_and_noise_are_no_single_solid(volumes: np.ndarray) -> None:
    assert max(best_kind(solid)[1] for solid in volumes[:2, UNION]) < 0.9
    random = np.random.default_rng(0)
    assert best_kind(random.random((16, 16, 16)) > 0.5)[1] < 0.6
    noisy = volumes[0, 0] ^ (random.random(volumes[0, 0].shape) < 0.002)
    clean_share = (noisy & volumes[0, 0]).sum() / (noisy | volumes[0, 0]).sum()
    assert clean_share - 0.06 < best_solid(noisy, 0) <= clean_share + 0.01


def test_nothing_one_voxel_and_everything() -> None:
    solid = np.zeros((12, 12, 12), dtype=bool)
    assert best_solid(solid, 0) == 0
    solid[4, 5, 6] = True
    assert best_solid(solid, 0) == 1
    solid[:] = True
    # balls around solids are at most the ball inside, of pi / 6 of the volume
    assert best_kind(solid)[1] < np.pi / 6


def test_a_seed_decides(volumes: np.ndarray) -> None:
    first = best_solid(volumes[0, 2], 2, seed=1)
    assert best_solid(volumes[0, 2], 2, seed=1) == first
    assert best_solid(volumes[0, 2], 2, seed=2) != first

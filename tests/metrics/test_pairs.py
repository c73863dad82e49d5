"""Against scikit-image, torchmetrics and plain loops."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from ddiff.data.source import to_unit
from ddiff.metrics import pairs
from ddiff.metrics.figures import bootstrap
from ddiff.metrics.pairs import nearest, pooled_psnr, psnr, ssim, window_for
from ddiff.system.errors import ConfigError

SHAPES = [
    (1, 32, 32), (1, 11, 40), (3, 24, 17), (1, 8, 8), (3, 7, 9),
    (1, 16, 16, 16), (1, 12, 20, 13), (1, 5, 6, 7),
]  # fmt: skip


def some_pairs(shape: tuple[int, ...], n: int = 4) -> tuple[Tensor, Tensor]:
    """Smooth samples in [-1, 1], the second of a pair ever noisier than the first."""
    g = torch.Generator().manual_seed(sum(shape))
    axes = torch.meshgrid(*(torch.linspace(0, 6, s) for s in shape[1:]), indexing="ij")
    phase = torch.rand(n, shape[0], *(1 for _ in shape[1:]), generator=g) * 6
    a = torch.sin(torch.stack(axes).sum(0) + phase)
    noise = torch.randn(a.shape, generator=g)
    level = torch.linspace(0.05, 0.8, n).view(n, *(1 for _ in shape))
    return a, (a + level * noise).clamp(-1, 1)


def unit(x: Tensor) -> np.ndarray:
    """What a user would give to scikit-image: intensities from 0 to 1."""
    return (x.double().numpy() + 1) / 2


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_is_that_of_scikit_image(shape: tuple[int, ...]):
    """Asked about intensities from 0 to 1, with the window that suits the size of the samples."""
    a, b = some_pairs(shape)
    wanted = [
        structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5 * window_for(shape[1:]) / 11,
            use_sample_covariance=False, data_range=1, channel_axis=0,
        )
        for x, y in zip(unit(a), unit(b), strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(ssim(a, b).numpy(), wanted, atol=1e-10)
    assert np.ptp(wanted) > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_is_that_of_scikit_image(shape: tuple[int, ...]):
    a, b = some_pairs(shape)
    wanted = [
        peak_signal_noise_ratio(x, y, data_range=1) for x, y in zip(unit(a), unit(b), strict=True)
    ]
    np.testing.assert_allclose(psnr(a, b).numpy(), wanted, rtol=1e-7)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 20, 31), (1, 14, 13, 12)])
def test_ssim_is_that_of_torchmetrics_without_its_border(shape: tuple[int, ...]):
    a, b = some_pairs(shape)
    _, maps = structural_similarity_index_measure(
        (a + 1) / 2, (b + 1) / 2, data_range=1.0, reduction="none", return_full_image=True
    )
    inner = maps[(..., *(slice(5, s - 5) for s in shape[1:]))]
    np.testing.assert_allclose(ssim(a, b).numpy(), inner.flatten(1).mean(1).numpy(), atol=1e-4)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_a_batch_in_pieces_is_the_batch(measure):
    a, b = some_pairs((1, 12, 12), 7)
    pieces = [measure(x, y) for x, y in zip(a.split(3), b.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(pieces), measure(a, b), rtol=1e-12, atol=0)


def test_equal_pairs():
    a, _ = some_pairs((1, 12, 12), 3)
    assert torch.isinf(psnr(a, a)).all()
    torch.testing.assert_close(ssim(a, a), torch.ones(3, dtype=torch.float64))


def test_opposite_pairs():
    """All black against all white: PSNR is 0, SSIM c_1 / (1 + c_1) with c_1 = 0.01^2."""
    a = torch.ones(1, 1, 12, 12, 12)
    assert float(psnr(a, -a)) == pytest.approx(0, abs=1e-6)
    assert float(ssim(a, -a)) == pytest.approx(0.0001 / 1.0001, rel=1e-9)


def test_two_nearly_equal_greys_are_similar():
    """125 and 130 of 255, as bytes become samples here and numbers for scikit-image there."""
    greys = torch.full((2, 1, 16, 16), 125, dtype=torch.uint8)
    greys[1] = 130
    wanted = structural_similarity(*(greys[:, 0].numpy() / 255), data_range=1)
    found = float(ssim(*to_unit(greys).split(1)))
    assert found == pytest.approx(wanted, abs=1e-6)
    assert found == pytest.approx(0.9992, abs=1e-4)


def test_pooled_psnr_is_that_of_the_mean_error():
    a, b = some_pairs((1, 12, 12), 5)
    b[2] = a[2]
    values = psnr(a, b).numpy()
    wanted = peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=2)
    assert np.mean(values) == np.inf
    assert pooled_psnr(values) == pytest.approx(wanted, rel=1e-7)
    low, high = bootstrap(values, pooled_psnr, repeats=50)
    assert low < wanted < high < np.inf
    assert pooled_psnr(np.array([np.inf, np.inf])) == np.inf


def test_windows():
    sizes = [(64, 64), (11, 90), (10, 10), (9, 9, 9), (8, 8), (64, 3)]
    assert [window_for(size) for size in sizes] == [11, 11, 9, 9, 7, 3]
    with pytest.raises(ConfigError, match="3 points or more along each axis, not 2"):
        ssim(torch.zeros(1, 1, 2, 9), torch.zeros(1, 1, 2, 9))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pairs_of_two_shapes_are_refused(measure):
    with pytest.raises(ConfigError, match=r"not \[2, 1, 9, 9\] and \[3, 1, 9, 9\]"):
        measure(torch.zeros(2, 1, 9, 9), torch.zeros(3, 1, 9, 9))


@pytest.mark.parametrize(("rows", "features"), [(2048, 4096), (4, 10)])
def test_the_nearest_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch, rows: int, features: int):
    monkeypatch.setattr(pairs, "ROWS", rows)
    monkeypatch.setattr(pairs, "FEATURES", features)
    monkeypatch.setattr(pairs, "NUMBERS", rows * 27)
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(13, 1, 3, 3, 3, generator=g), torch.randn(22, 1, 3, 3, 3, generator=g)
    a[5] = b[17]
    index, squared = nearest(a, b)
    all_squared = [[float(((x - y).double() ** 2).sum()) for y in b] for x in a]
    assert index.tolist() == [int(np.argmin(row)) for row in all_squared]
    np.testing.assert_allclose(squared.numpy(), np.min(all_squared, 1), rtol=1e-6)
    assert squared[5] == 0


def test_the_nearest_of_large_numbers_is_not_rounded_away():
    """10000 and 10001 squared agree in single precision to within their distance."""
    b = torch.tensor([[10000.0], [10001.0], [10002.0]])
    index, squared = nearest(torch.tensor([[10001.25], [10000.25]]), b)
    assert index.tolist() == [1, 0]
    assert squared.tolist() == [0.0625, 0.0625]


def test_nearest_in_nothing_is_refused():
    with pytest.raises(ConfigError, match="nothing to find the nearest in"):
        nearest(torch.zeros(1, 2), torch.zeros(0, 2))

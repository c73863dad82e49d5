"""Against numpy.cov, closed forms, scipy's matrix square root, torchmetrics and fresh draws."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ddiff.metrics.features import Features
from ddiff.metrics.moments import Moments, frechet, frechet_bootstrap
from ddiff.system.errors import ConfigError, DdiffError


def moments(features: np.ndarray | Tensor, *cuts: int) -> Moments:
    found = Moments()
    for piece in torch.as_tensor(features).tensor_split(cuts):
        found.update(piece)
    return found


def exact(mean: ArrayLike, covariance: ArrayLike, n: int = 1000) -> Moments:
    """The moments of samples that have exactly this mean and covariance."""
    scatter = torch.from_numpy(np.array(covariance, dtype=float)) * (n - 1)
    return Moments(n, torch.from_numpy(np.array(mean, dtype=float)), scatter)


def relative(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


def test_pieces_of_any_size_have_the_moments_of_the_whole():
    x = np.random.default_rng(0).normal(100, 3, (1000, 7)) @ np.random.default_rng(1).normal(
        0, 1, (7, 7)
    )
    found = moments(x, 1, 1, 2, 5, 130, 131, 997)  # one piece is empty
    assert found.n == 1000
    assert relative(found.mean, x.mean(0)) < 1e-12
    assert relative(found.covariance(), np.cov(x.T)) < 1e-12


def test_a_large_mean_does_not_drown_the_covariance():
    x = np.random.default_rng(2).normal(1e6, 1, (999, 4))
    found = moments(x, *range(10, 999, 10))
    assert relative(found.covariance(), np.cov(x.T)) < 1e-9
    naive = x.T @ x / 998 - np.outer(x.mean(0), x.mean(0)) * 999 / 998
    assert relative(naive, np.cov(x.T)) > 1e-5


def test_half_precision_features_are_summed_in_double():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(3)).half()
    assert relative(moments(x, 100).covariance(), np.cov(x.double().numpy().T)) < 1e-12


def test_counts_stand_for_repeated_samples():
    random = np.random.default_rng(4)
    x, counts = random.normal(5, 2, (50, 3)), random.integers(0, 4, 50)
    found = Moments()
    for rows in (slice(0, 20), slice(20, 50)):
        found.update(torch.from_numpy(x[rows]), torch.from_numpy(counts[rows]))
    repeated = np.repeat(x, counts, axis=0)
    assert found.n == len(repeated)
    assert relative(found.mean, repeated.mean(0)) < 1e-12
    assert relative(found.covariance(), np.cov(repeated.T)) < 1e-12


def test_saved_moments_come_back_bit_for_bit(tmp_path: Path):
    x = torch.from_numpy(np.random.default_rng(5).normal(0, 1, (20, 6)))
    found = moments(x, 7)
    Features(found, x.float(), x[:, :3]).save(tmp_path / "sub/reference.npz")
    loaded = Features.load(tmp_path / "sub/reference.npz")
    assert loaded.moments.n == 20
    assert torch.equal(loaded.moments.mean, found.mean)
    assert torch.equal(loaded.moments.scatter, found.scatter)
    assert torch.equal(loaded.kept, x.float())
    assert torch.equal(loaded.logits, x[:, :3])


def npy() -> bytes:
    np.save(file := io.BytesIO(), np.zeros(3))
    return file.getvalue()


def npz() -> bytes:
    np.savez(file := io.BytesIO(), other=np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text", npy(), npz()])
def test_a_file_of_something_else_is_one_clear_line(tmp_path: Path, content: bytes):
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    with pytest.raises(DdiffError, match=r"^cannot read .*reference\.npz .*delete it"):
        Features.load(path)


def test_gaussians_on_a_line():
    a, b = exact([1.5], [[4.0]]), exact([-0.5], [[0.25]])
    assert frechet(a, b) == pytest.approx(2.0**2 + (2 - 0.5) ** 2, rel=1e-12)


def test_commuting_covariances():
    random = np.random.default_rng(6)
    d_a, d_b, m_a, m_b = (random.uniform(0.1, 3, 12) for _ in range(4))
    wanted = ((m_a - m_b) ** 2).sum() + ((np.sqrt(d_a) - np.sqrt(d_b)) ** 2).sum()
    q, _ = np.linalg.qr(random.normal(0, 1, (12, 12)))
    a, b = exact(q @ m_a, q * d_a @ q.T), exact(q @ m_b, q * d_b @ q.T)
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-10)
    assert frechet(exact(m_a, np.diag(d_a)), exact(m_b, np.diag(d_b))) == pytest.approx(wanted)


def by_sqrtm(a: Moments, b: Moments) -> float:
    s_a, s_b = a.covariance().numpy(), b.covariance().numpy()
    root = scipy.linalg.sqrtm(s_a @ s_b)
    assert np.abs(np.imag(root)).max() < 1e-6
    means = float((a.mean - b.mean).square().sum())
    return means + float(np.trace(s_a) + np.trace(s_b) - 2 * np.trace(np.real(root)))


@pytest.mark.parametrize("seed", range(3))
def test_random_covariances_against_scipy(seed: int):
    random = np.random.default_rng(seed)
    a, b = (moments(random.normal(0, 1, (300, 24)) @ random.normal(0, 1, (24, 24))) for _ in "ab")
    assert frechet(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-8)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-10)


def by_factors(x: np.ndarray, y: np.ndarray) -> float:
    """Without covariances, so exact where they are singular: with S_x = X^T X for centred and
    scaled X the last trace is the sum of the singular values of X Y^T."""
    X, Y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    cross = np.linalg.svd(X @ Y.T, compute_uv=False).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + (X**2).sum() + (Y**2).sum() - 2 * cross


@pytest.mark.parametrize(("n", "m"), [(10, 20), (10, 400), (400, 10), (2, 2), (50, 65)])
def test_fewer_samples_than_dimensions(n: int, m: int):
    random = np.random.default_rng(n)
    x, y = random.normal(0, 1, (n, 64)), random.normal(0.2, 2, (m, 64))
    assert frechet(moments(x), moments(y)) == pytest.approx(by_factors(x, y), rel=1e-10)


def test_singular_covariances_against_scipy():
    """In the space they share: rank 3 and rank 5 in 8 dimensions."""
    random = np.random.default_rng(7)
    a, b = (random.normal(0, 1, (100, r)) @ random.normal(0, 1, (r, 8)) for r in (3, 5))
    s_a, s_b = np.cov(a.T), np.cov(b.T)
    basis = scipy.linalg.orth(s_a)  # sqrt(S_a) S_b sqrt(S_a) is 0 outside
    root = np.real(scipy.linalg.sqrtm(basis.T @ s_a @ basis))
    cross = np.trace(np.real(scipy.linalg.sqrtm(root @ (basis.T @ s_b @ basis) @ root)))
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * cross
    assert frechet(moments(a), moments(b)) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("n", [5, 500])
def test_a_law_is_at_no_distance_from_itself(n: int):
    same = moments(np.random.default_rng(8).normal(3, 1, (n, 32)))
    assert 0 <= frechet(same, same) < 1e-11


def test_all_samples_equal():
    x = np.random.default_rng(9).normal(0, 1, (200, 5))
    collapsed = moments(np.ones((50, 5)))
    wanted = ((x.mean(0) - 1) ** 2).sum() + x.var(0, ddof=1).sum()
    assert frechet(collapsed, moments(x)) == pytest.approx(wanted, rel=1e-12)
    assert frechet(collapsed, collapsed) == 0


class Flat(nn.Module):
    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double()


def test_torchmetrics_on_the_same_features():
    g = torch.Generator().manual_seed(10)
    real = torch.rand(300, 3, 2, 2, generator=g)
    fake = torch.rand(200, 3, 2, 2, generator=g) ** 2
    peer = FrechetInceptionDistance(feature=Flat()).set_dtype(torch.float64)
    peer.update(real, real=True)
    peer.update(fake, real=False)
    ours = frechet(moments(fake.flatten(1)), moments(real.flatten(1)))
    assert ours == pytest.approx(float(peer.compute()), rel=1e-10)


def test_too_few_and_not_finite():
    two = moments(np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="at least 2 samples, not 1"):
        frechet(moments(np.zeros((1, 3))), two)
    with pytest.raises(DdiffError, match="not finite"):
        frechet(two, moments(np.full((4, 3), np.nan)))


def test_the_interval_is_the_spread_of_fresh_draws():
    """Its width is that of 95% of fresh draws, and it holds their mean as often as it says."""
    random = np.random.default_rng(11)
    reference = moments(random.normal(0, 1, (20000, 6)))

    def draw() -> Tensor:
        return torch.from_numpy(random.normal(0.3, 1.2, (150, 6)))

    fresh = [frechet(moments(draw()), reference) for _ in range(400)]
    low, high = np.quantile(fresh, [0.025, 0.975])
    intervals = np.array([frechet_bootstrap(draw(), reference, i, 100) for i in range(60)])
    assert np.diff(intervals).mean() == pytest.approx(high - low, rel=0.2)
    held = (intervals[:, 0] < np.mean(fresh)) & (np.mean(fresh) < intervals[:, 1])
    assert 0.85 <= held.mean() <= 1  # 95% wanted; 51 of 60 or fewer has probability 1%


def test_the_interval_holds_the_distance_and_repeats():
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(12))  # strongly biased
    reference = moments(np.random.default_rng(13).normal(0, 1, (1000, 8)))
    low, high = frechet_bootstrap(x, reference, seed=1)
    assert low < frechet(moments(x), reference) < high
    assert (low, high) == frechet_bootstrap(x, reference, seed=1)
    assert (low, high) != frechet_bootstrap(x, reference, seed=2)

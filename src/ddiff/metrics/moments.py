"""Mean and covariance of features, and the Frechet distance between two Gaussians."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ddiff.system.errors import ConfigError, DdiffError

CHUNK = 4096  # samples at a time


_zero = partial(torch.zeros, (), dtype=torch.float64)


@dataclass(eq=False)
class Moments:
    """Number, mean and scatter of features that arrive in pieces, in float64.

    Scatter is sum (x - mean)(x - mean)^T. Mean and scatter are 0-dimensional before the first
    piece.
    """

    n: int = 0
    mean: Tensor = field(default_factory=_zero)  # [D]
    scatter: Tensor = field(default_factory=_zero)  # [D, D]

    def update(self, features: Tensor, counts: Tensor | None = None) -> None:
        """Add features [B, D]; row i stands for `counts[i]` equal samples (None: for one).

        Chan, Golub and LeVeque 1979: pieces are centred on their own mean before they are squared.
        """
        x = features.double()
        weights = torch.ones_like(x[:, 0]) if counts is None else counts.to(x)
        n = int(weights.sum())
        if n == 0:
            return
        mean = weights @ x / n
        centred = x - mean
        delta, total = mean - self.mean, self.n + n
        between = torch.outer(delta, delta) * (self.n * n / total)
        self.scatter = self.scatter + (centred * weights[:, None]).T @ centred + between
        self.mean = self.mean + delta * (n / total)
        self.n = total

    def covariance(self) -> Tensor:
        """Unbiased covariance, [D, D]. Raises for fewer than 2 samples or infinite features."""
        if self.n < 2:
            raise ConfigError(f"a covariance needs at least 2 samples, not {self.n}")
        if not self.scatter.isfinite().all():
            raise DdiffError(f"the features of the {self.n} samples are not finite numbers")
        return self.scatter / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    """Frechet distance of Heusel et al. 2017 between two Gaussians (the square of a metric):

        |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2.

    It is biased upwards, by about 1/n: compare only figures of one number of samples.
    """
    return _distance(a.mean, _root(a.covariance()), b.mean, _root(b.covariance()))


def frechet_bootstrap(
    features: Tensor, reference: Moments, seed: int = 0, repeats: int = 100
) -> tuple[float, float]:
    """The 95% interval of the Frechet distance that N samples of this law have on average.

    Drawing features [N, D] with replacement repeats the bias by 1/N, which raises every repeat. So
    the repeats give the width, and the distance itself gives the middle. A repeat costs an
    eigenvalue and a singular value decomposition of [D, D].
    """
    n, random = len(features), np.random.default_rng(seed)
    b_root = _root(reference.covariance())

    def distance(counts: np.ndarray) -> float:
        moments = Moments()
        pieces = torch.from_numpy(counts).split(CHUNK)
        for x, c in zip(features.split(CHUNK), pieces, strict=True):
            moments.update(x, c)
        return _distance(moments.mean, _root(moments.covariance()), reference.mean, b_root)

    drawn = [distance(random.multinomial(n, np.full(n, 1 / n))) for _ in range(repeats)]
    low, high = np.quantile(drawn, [0.025, 0.975]) - np.mean(drawn) + distance(np.ones(n))
    return max(0.0, float(low)), float(high)


def _root(covariance: Tensor) -> Tensor:
    """Return R with R R^T = S.

    Eigenvalues below the rounding error of the largest count as 0: the root of that error would be
    1e8 times as large.
    """
    values, vectors = torch.linalg.eigh(covariance)
    error = values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors * values.where(values > error, 0.0).sqrt()


def _distance(a_mean: Tensor, a_root: Tensor, b_mean: Tensor, b_root: Tensor) -> float:
    """Frechet distance from the means and the roots R, S = R R^T, of the covariances.

    The last trace is then the nuclear norm of R_a^T R_b, never complex. It is at most the mean of
    the squared norms of R_a and R_b, so the distance is never negative.
    """
    traces = a_root.square().sum() + b_root.square().sum()
    cross = torch.linalg.svdvals(a_root.T @ b_root).sum()
    return float((a_mean - b_mean).square().sum() + (traces - 2 * cross).clamp(min=0))

"""Comparison of pairs of samples: PSNR, SSIM, and which sample is the nearest.

Samples are [N, C, H, W] or [N, C, D, H, W] in [-1, 1]. PSNR and SSIM are computed of their
intensities from 0 to 1, as scikit-image gives them for bytes / 255 and data_range=1.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from ddiff.system.errors import ConfigError

ROWS, FEATURES = 2048, 4096  # of each side of a block of distances, at a time
NUMBERS = 2**21  # of samples beside their nearest, at a time


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair in decibels, [N] float64.

    It is inf for equal pairs. The mean is then inf too: see `pooled_psnr`.
    """
    return torch.stack([peak_signal_noise_ratio(x, y, 1.0) for x, y in _intensities(a, b)])


def _intensities(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pair by pair, scaled from [-1, 1] to [0, 1], in float64."""
    if a.shape != b.shape:
        raise ConfigError(f"pairs need one shape, not {list(a.shape)} and {list(b.shape)}")
    for x, y in zip(a, b, strict=True):
        yield x.double().add(1).div_(2), y.double().add(1).div_(2)


def pooled_psnr(values: np.ndarray) -> float:
    """PSNR of the mean square error over all pairs, from their PSNRs [N].

    It is finite if any pair differs, and never above the mean PSNR, to which pairs that happen to
    be close add most.
    """
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(np.mean(10 ** (-np.asarray(values) / 10))))


def window_for(shape: Sequence[int]) -> int:
    """Width of the SSIM window for samples of shape [..., *S].

    It is 11, or the largest odd number that fits. Raises ConfigError for fewer than 3 points along
    an axis.
    """
    smallest = min(shape)
    if smallest < 3:
        raise ConfigError(f"SSIM needs 3 points or more along each axis, not {smallest}")
    return min(11, smallest - 1 + smallest % 2)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair (Wang et al. 2004), [N] float64, each channel alone.

    It is the mean over the windows that lie wholly within. Its first factor compares mean
    brightness, 0 for black, so it needs intensities from 0: about a mean of 0 two nearly equal
    greys would look opposite.

    The window is Gaussian, with sigma 1.5 at its full width 11 and less in proportion.
    """
    sigma = 1.5 * window_for(a.shape[2:]) / 11
    similarity = [
        structural_similarity(
            x.numpy(), y.numpy(), gaussian_weights=True, sigma=sigma, data_range=1.0,
            use_sample_covariance=False, channel_axis=0,
        )
        for x, y in _intensities(a, b)
    ]  # fmt: skip
    return torch.tensor(similarity, dtype=torch.float64)


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Index [N] of the nearest of b [M, ...] to each of a [N, ...], and its squared distance.

    The squared Euclidean distance is [N] float64, and exactly 0 for a copy. Raises ConfigError if b
    is empty.
    """
    if not len(b):
        raise ConfigError("there is nothing to find the nearest in")
    a, b = a.flatten(1), b.flatten(1)
    least = torch.full((len(a),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(a), dtype=torch.int64)
    for rows, columns, squared in distance_blocks(a, b):
        found, where = squared.min(1)
        closer = found < least[rows]
        index[rows] = torch.where(closer, where + columns.start, index[rows])
        least[rows] = torch.where(closer, found, least[rows])
    size = max(1, NUMBERS // max(1, a.shape[1]))
    pieces = zip(a.split(size), index.split(size), strict=True)
    exact = [(x.double() - b[i].double()).square().sum(1) for x, i in pieces]
    return index, torch.cat(exact)


def distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows, columns, block) of the squared Euclidean distances of a [N, D] and b [M, D].

    Blocks are float64. Rows and columns are cut alike, so that the diagonal of
    `distance_blocks(a, a)` is that of the blocks in which they are equal.
    """
    for i in range(0, len(a), ROWS):
        for j in range(0, len(b), ROWS):
            x, y = a[i : i + ROWS], b[j : j + ROWS]
            squared = torch.zeros(len(x), len(y), dtype=torch.float64)
            for p, q in zip(x.split(FEATURES, 1), y.split(FEATURES, 1), strict=True):
                p, q = p.double(), q.double()
                squared += torch.einsum("nd,nd->n", p, p)[:, None]
                squared += torch.einsum("md,md->m", q, q)
                squared.addmm_(p, q.T, alpha=-2)
            yield slice(i, i + len(x)), slice(j, j + len(y)), squared.clamp_(min=0)

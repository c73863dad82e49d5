"""Kernel distance of two sets of features."""

import numpy as np
import torch
from torch import Tensor

from ddiff.system.errors import ConfigError


def kid(
    a: Tensor, b: Tensor, subset_size: int, subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Binkowski et al. 2018 of features [N, D] and [M, D]: mean and standard deviation over
    subsets, each drawn without replacement.

    Unbiased, so below 0 about as often as above for two sets of one law. The subsets overlap: the
    deviation tells of the size of the subsets more than of the error of the mean.
    """
    fewest = min(len(a), len(b))
    if not 2 <= subset_size <= fewest:
        raise ConfigError(
            f"kid: subset_size={subset_size} must lie between 2 and {fewest}, "
            f"the smaller of the two numbers of samples"
        )
    random = np.random.default_rng(seed)

    def drawn(x: Tensor) -> Tensor:
        rows = random.choice(len(x), subset_size, replace=False)
        return x[torch.from_numpy(rows).to(x.device)]

    values = [squared_mmd(drawn(a), drawn(b)) for _ in range(subsets)]
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate for x, y [m, D] under the kernel (x.y / D + 1)^3, in float64."""
    x, y, m = x.double(), y.double(), len(x)

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / x.shape[1] + 1) ** 3

    k_xx, k_yy = kernel(x, x), kernel(y, y)
    within = k_xx.sum() - k_xx.trace() + k_yy.sum() - k_yy.trace()
    return float(within / (m * (m - 1)) - 2 * kernel(x, y).mean())

"""Forward noising in plain torch, with the signature of the native operation."""

from torch import Tensor

from ..philox import normal


def reference(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    """See `add_noise`."""
    eps = normal(key, samples, draw, x_0.shape[1:])
    columns = coefficients.view(-1, 4, *[1] * (x_0.ndim - 1)).unbind(1)
    alpha, sigma, e, s = columns
    return alpha * x_0 + sigma * eps, e * eps + s * x_0

"""The two lines of a plan in plain torch, with the signature of the native operation."""

import torch
from torch import Tensor

from ..philox import normal


def reference(
    x: Tensor,
    pred: Tensor,
    x_0: Tensor | None,
    table: Tensor,
    step: Tensor,
    samples: Tensor,
    key: int,
    clamp: float | None,
    noisy: bool,
) -> None:
    """See `solver_step`. Waits for nothing on the device."""
    p, q, a, b, c, d, w = table.index_select(0, step.view(1))[0].unbind()
    pred = pred.float()
    if len(pred) != len(x):
        labelled, unlabelled = pred.chunk(2)
        pred = (1 + w) * labelled - w * unlabelled
    estimate = p * x + q * pred
    if clamp is not None:
        estimate = estimate.clamp(-clamp, clamp)
    x.mul_(a).add_(b * estimate)
    if x_0 is not None:
        x.add_(torch.where(c == 0, 0.0, c * x_0))
        x_0.copy_(estimate)
    if noisy:
        x.add_(d * normal(key, samples, step + 1, x.shape[1:]))


def noise_reference(
    x_0: Tensor, coefficients: Tensor, samples: Tensor, key: int, draw: int
) -> tuple[Tensor, Tensor]:
    """See `add_noise`."""
    eps = normal(key, samples, draw, x_0.shape[1:])
    columns = coefficients.view(-1, 4, *[1] * (x_0.ndim - 1)).unbind(1)
    alpha, sigma, e, s = columns
    return alpha * x_0 + sigma * eps, e * eps + s * x_0

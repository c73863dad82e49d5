"""The gradient's norm and Adam's step in plain torch, with the signatures of the native ones."""

from collections.abc import Sequence

import torch
from torch import Tensor


def grad_norm_reference(grads: Sequence[Tensor]) -> Tensor:
    """See `grad_norm`."""
    return torch.stack([g.double().square().sum() for g in grads]).sum().sqrt().float()


def reference(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    firsts: Sequence[Tensor],
    seconds: Sequence[Tensor],
    averages: Sequence[Tensor],
    steps: Sequence[Tensor],
    norm: Tensor | None,
    found_inf: Tensor | None,
    max_norm: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    decay: float,
) -> None:
    """See `adam`. Waits for nothing on the device."""
    clip = 1.0 if norm is None else (max_norm / (norm + 1e-6)).clamp(max=1)
    lists = (parameters, grads, firsts, seconds, averages, steps)
    for p, g, m, v, average, step in zip(*lists, strict=True):
        g = g * clip
        if not decoupled:
            g = g + weight_decay * p
        new_m = m + (1 - beta1) * (g - m)
        new_v = beta2 * v + (1 - beta2) * g.square()
        size = lr / (1 - beta1 ** step.double()).float()
        denominator = new_v.sqrt() / (1 - beta2 ** step.double()).sqrt().float() + eps
        shrink = 1 - lr * weight_decay if decoupled else 1.0
        new_p = shrink * p - size * new_m / denominator
        for old, new in ((m, new_m), (v, new_v), (p, new_p)):
            old.copy_(new if found_inf is None else torch.where(found_inf != 0, old, new))
        average.lerp_(p, 1 - decay)

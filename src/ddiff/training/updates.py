"""Steps that follow a backward pass: clipping, and averaging of weights."""

from collections.abc import Sequence

import torch
from torch import Tensor


def clip(parameters: Sequence[Tensor], max_norm: float | None) -> Tensor:
    """The gradient's norm []; gradients longer than `max_norm` are cut to it (None: none are)."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def decay_at(step: int, most: float) -> float:
    """The decay of averaged weights after `step` steps: it rises from 0.1 to `most`, so that a
    young average forgets its start."""
    return min(most, (1 + step) / (10 + step))


def average(averages: list[Tensor], parameters: list[Tensor], decay: float) -> None:
    """averages = decay averages + (1 - decay) parameters, in place."""
    with torch.no_grad():
        torch._foreach_lerp_(averages, parameters, 1 - decay)  # pyright: ignore

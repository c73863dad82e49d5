"""Losses by tenth of t / T, as sums that stay on the device."""

import torch
from torch import Tensor

TENTHS = [f"{i / 10:.1f}-{(i + 1) / 10:.1f}" for i in range(10)]


def by_tenth(t: Tensor, T: int, x: Tensor) -> Tensor:
    """Sum of x [B], and how many there are, in each tenth of 1..T, [2, 10]."""
    hits = (t - 1) * 10 // T == torch.arange(10, device=t.device)[:, None]  # [10, B]
    return torch.stack([torch.where(hits, x, 0).sum(1), hits.sum(1)])

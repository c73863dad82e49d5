"""Nets and inputs for tests of nets."""

import torch
from torch import Tensor, nn


def perturbed(net: nn.Module) -> nn.Module:
    """The net with no layer left at zero."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def batch(shape: tuple[int, ...], size: int = 3) -> tuple[Tensor, Tensor]:
    """x [size, *shape] and t [size]."""
    return torch.randn(size, *shape), torch.arange(size) * 11

"""Embeddings: a time (or its noise level) and a label as the vector that conditions every block."""

import math
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn

from ddiff.system.bounds import At
from ddiff.system.errors import ConfigError

Width = Annotated[int, At(least=4, most=65_536)]


class HasNoiseLevels(Protocol):
    """A table of noise levels, such as a schedule."""

    abar: Tensor  # float64 [T + 1], abar[0] = 1


def _mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, 4 * dim))


def _check_even(dim: int) -> None:
    if dim < 4 or dim % 2:
        raise ConfigError(f"embedding.dim must be an even number of at least 4, not {dim}")


class Sinusoidal(nn.Module):
    """Sinusoidal embedding of the time (Ho et al. 2020), then an MLP.

    Sines and cosines of t have periods from 2 pi to 2 pi 10000.
    """

    def __init__(self, dim: Width):
        super().__init__()
        _check_even(dim)
        self.dim = dim
        self.out_dim = 4 * dim
        self.mlp = _mlp(dim)

    def forward(self, t: Tensor) -> Tensor:
        """Embed t [B] int64, counted from 0, as [B, out_dim]."""
        half = self.dim // 2
        index = torch.arange(half, device=t.device, dtype=torch.float32)
        phase = t.float()[:, None] * torch.exp(index * (-math.log(10000) / (half - 1)))
        features = torch.cat([phase.sin(), phase.cos()], dim=1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class LogSNR(nn.Module):
    """Embedding of the noise level: learned Fourier features, then an MLP.

    The net is told the noise level instead of the time. The level is -log(abar / (1 - abar)) / 8 =
    log(sigma) / 4, as in Karras et al. 2024.
    """

    def __init__(self, dim: Width, schedule: HasNoiseLevels):
        super().__init__()
        _check_even(dim)
        self.out_dim = 4 * dim
        self.level: Tensor
        abar = schedule.abar.double()
        level = -(abar / (1 - abar)).log().clamp(-20, 20) / 8
        self.register_buffer("level", level.float(), persistent=False)  # [T + 1]
        self.frequencies = nn.Parameter(torch.randn(dim // 2))
        self.mlp = _mlp(dim)

    def _apply(self, fn, recurse: bool = True):
        level = self.level
        super()._apply(fn, recurse)
        self.level = level.to(self.level.device)  # net.bfloat16() must not merge noise levels
        return self

    def forward(self, t: Tensor) -> Tensor:
        """Embed t [B] int64, counted from 0, as [B, out_dim]."""
        phase = 2 * math.pi * self.level[t + 1][:, None] * self.frequencies.float()
        features = torch.cat([phase.sin(), phase.cos()], dim=1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class Condition(nn.Module):
    """Embedding of the time and, if there are classes, of the label.

    Row 0 of `labels` is "no label".
    """

    def __init__(self, embedding: nn.Module | None, num_classes: int | None):
        super().__init__()
        self.embedding = embedding = embedding or Sinusoidal(64)
        self.out_dim: int = embedding.out_dim  # pyright: ignore[reportAttributeAccessIssue]
        self.labels = None
        if num_classes is not None:
            self.labels = nn.Embedding(num_classes + 1, self.out_dim)

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embed t [B] and y [B] (-1: no label) or None as [B, out_dim].

        Raises ConfigError for labels if the net has no classes.
        """
        emb = self.embedding(t)
        if self.labels is None:
            if y is not None:
                raise ConfigError(
                    "a label was given to a net without classes (net.num_classes=null)"
                )
            return emb
        return emb + (self.labels.weight[0] if y is None else self.labels(y + 1))

"""Embeddings: a time (or its noise level) and a label as the vector that conditions every block."""

import math
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn

from ddiff.system.bounds import At
from ddiff.system.errors import ConfigError

Width = Annotated[int, At(least=4, most=65_536)]
Shift = Annotated[int, At(least=0, most=1)]


class HasNoiseLevels(Protocol):
    """A table of noise levels, such as a schedule."""

    abar: Tensor  # float64 [T + 1], abar[0] = 1


def _mlp(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))


def _check_even(dim: int) -> None:
    if dim < 4 or dim % 2:
        raise ConfigError(f"embedding.dim must be an even number of at least 4, not {dim}")


class Sinusoidal(nn.Module):
    """Sinusoidal embedding of the time (Ho et al. 2020), then an MLP.

    Feature i of the dim / 2 sines, and of as many cosines, has the period
    2 pi 10000^(i / (dim / 2 - freq_shift)).

    - `dim`: the number of features.
    - `out_dim`: channels of the embedding; None: 4 `dim`.
    - `flip_sin_to_cos`: cosines come before sines.
    - `freq_shift`: 1: the longest period is 2 pi 10000, as in Ho et al. 2020; 0: it is shorter, as
      in most later nets.
    """

    def __init__(
        self,
        dim: Width,
        flip_sin_to_cos: bool = False,
        freq_shift: Shift = 1,
        out_dim: Width | None = None,
    ):
        super().__init__()
        _check_even(dim)
        self.dim = dim
        self.flip_sin_to_cos, self.freq_shift = flip_sin_to_cos, freq_shift
        self.out_dim = out_dim or 4 * dim
        self.mlp = _mlp(dim, self.out_dim)

    def forward(self, t: Tensor) -> Tensor:
        """Embed t [B] int64, counted from 0, as [B, out_dim]."""
        half = self.dim // 2
        index = torch.arange(half, device=t.device, dtype=torch.float32)
        rate = -math.log(10000) / (half - self.freq_shift)
        phase = t.float()[:, None] * torch.exp(index * rate)
        parts = [phase.cos(), phase.sin()] if self.flip_sin_to_cos else [phase.sin(), phase.cos()]
        features = torch.cat(parts, dim=1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class ExactBuffers(nn.Module):
    """A module whose own buffers move to another device but keep their number format.

    Without this, net.bfloat16() would merge noise levels and positions.
    """

    def _apply(self, fn, recurse: bool = True):
        exact = {name: value for name, value in self._buffers.items() if value is not None}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            self._buffers[name] = value.to(getattr(self, name).device)
        return self


class LogSNR(ExactBuffers):
    """Embedding of the noise level: learned Fourier features, then an MLP.

    The net is told the noise level instead of the time. The level is -log(abar / (1 - abar)) / 8 =
    log(sigma) / 4, as in Karras et al. 2024.

    - `dim`: the number of features.
    - `out_dim`: channels of the embedding; None: 4 `dim`.
    """

    def __init__(self, dim: Width, schedule: HasNoiseLevels, out_dim: Width | None = None):
        super().__init__()
        _check_even(dim)
        self.out_dim = out_dim or 4 * dim
        self.level: Tensor
        abar = schedule.abar.double()
        level = -(abar / (1 - abar)).log().clamp(-20, 20) / 8
        self.register_buffer("level", level.float(), persistent=False)  # [T + 1]
        self.frequencies = nn.Parameter(torch.randn(dim // 2))
        self.mlp = _mlp(dim, self.out_dim)

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

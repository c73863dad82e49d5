"""Embeddings of the time, or of its noise level, as a vector."""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn

from ddiff.system.bounds import At
from ddiff.system.errors import ConfigError
from ddiff.system.told import decoded

Width = Annotated[int, At(least=4, most=65_536)]
Shift = Annotated[int, At(least=0, most=1)]


class HasNoiseLevels(Protocol):
    """A table of noise levels, such as a schedule."""

    abar: Tensor  # float64 [T + 1], abar[0] = 1


def mlp(dim: int, out_dim: int) -> nn.Sequential:
    """Return two linear layers with a SiLU between them."""
    return nn.Sequential(nn.Linear(dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))


def _check_even(dim: int) -> None:
    if dim < 4 or dim % 2:
        raise ConfigError(f"embedding.dim must be an even number of at least 4, not {dim}")


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


class TimeEmbedding(ExactBuffers, ABC):
    """Base class of embeddings: `dim` features of the time, then an MLP.

    A net that learns `shortcuts` is told how far a step goes too (`ddiff.system.told`); sines of
    that go through an MLP of their own, which is 0 at first: the net starts as one without.
    """

    def __init__(self, dim: int, out_dim: int | None, shortcuts: bool):
        super().__init__()
        _check_even(dim)
        self.dim, self.out_dim, self.shortcuts = dim, out_dim or 4 * dim, shortcuts

    def add_layers(self) -> None:
        """Make the layers after the features."""
        self.mlp = mlp(self.dim, self.out_dim)
        if self.shortcuts:
            self.length = mlp(self.dim, self.out_dim)
            for parameter in self.length[-1].parameters():
                nn.init.zeros_(parameter)

    @abstractmethod
    def features(self, t: Tensor) -> Tensor:
        """Return the features of t [B] int64, counted from 0: [B, dim] float32."""

    def forward(self, t: Tensor) -> Tensor:
        """Embed t [B] int64, counted from 0, or what a net is told of steps, as [B, out_dim]."""
        if not self.shortcuts:
            return self._through(self.mlp, self.features(t))
        t, length = decoded(t)
        far = self._through(self.length, sines(length, self.dim))
        return self._through(self.mlp, self.features(t)) + far

    def _through(self, mlp: nn.Module, features: Tensor) -> Tensor:
        return mlp(features.to(next(mlp.parameters()).dtype))


def sines(t: Tensor, dim: int, freq_shift: int = 1, flip: bool = False) -> Tensor:
    """Return sines of t [B] and as many cosines, [B, dim] float32; `flip`: the cosines first."""
    index = torch.arange(dim // 2, device=t.device, dtype=torch.float32)
    phase = t.float()[:, None] * torch.exp(index * (-math.log(10000) / (dim // 2 - freq_shift)))
    return torch.cat([phase.cos(), phase.sin()] if flip else [phase.sin(), phase.cos()], dim=1)


class Sinusoidal(TimeEmbedding):
    """Sinusoidal embedding of the time (Ho et al. 2020), then an MLP.

    Feature i of the dim / 2 sines, and of as many cosines, has the period
    2 pi 10000^(i / (dim / 2 - freq_shift)).

    - `dim`: the number of features.
    - `out_dim`: channels of the embedding; None: 4 `dim`.
    - `flip_sin_to_cos`: cosines come before sines.
    - `freq_shift`: 1: the longest period is 2 pi 10000, as in Ho et al. 2020; 0: it is shorter, as
      in most later nets.
    - `shortcuts`: the net is told how far a step goes too.
    """

    def __init__(
        self,
        dim: Width,
        flip_sin_to_cos: bool = False,
        freq_shift: Shift = 1,
        out_dim: Width | None = None,
        shortcuts: bool = False,
    ):
        super().__init__(dim, out_dim, shortcuts)
        self.flip_sin_to_cos, self.freq_shift = flip_sin_to_cos, freq_shift
        self.add_layers()

    def features(self, t: Tensor) -> Tensor:
        return sines(t, self.dim, self.freq_shift, self.flip_sin_to_cos)


class LogSNR(TimeEmbedding):
    """Embedding of the noise level: learned Fourier features, then an MLP.

    The net is told the noise level instead of the time. The level is -log(abar / (1 - abar)) / 8 =
    log(sigma) / 4, as in Karras et al. 2024.

    - `dim`: the number of features.
    - `out_dim`: channels of the embedding; None: 4 `dim`.
    - `shortcuts`: the net is told how far a step goes too.
    """

    def __init__(
        self,
        dim: Width,
        schedule: HasNoiseLevels,
        out_dim: Width | None = None,
        shortcuts: bool = False,
    ):
        super().__init__(dim, out_dim, shortcuts)
        self.level: Tensor
        abar = schedule.abar.double()
        level = -(abar / (1 - abar)).log().clamp(-20, 20) / 8
        self.register_buffer("level", level.float(), persistent=False)  # [T + 1]
        self.frequencies = nn.Parameter(torch.randn(dim // 2))
        self.add_layers()

    def features(self, t: Tensor) -> Tensor:
        phase = 2 * math.pi * self.level[t + 1][:, None] * self.frequencies.float()
        return torch.cat([phase.sin(), phase.cos()], dim=1)

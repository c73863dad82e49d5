"""The smallest nets that learn, and nets as large as those of earlier small projects.

They are baselines: for every other net, and for comparisons at equal numbers of weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.nets.checks import check_divides, check_input, checked_shape
from ddiff.nets.conditions import Condition
from ddiff.system.bounds import Count
from ddiff.system.errors import ConfigError


class Plain3d(nn.Module):
    """Two 3D convolutions at full resolution; the embedding of time and label is added between.

    (x [B, C, D, H, W], t [B], y [B] or None) -> [B, C, D, H, W].
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int | None,
        embedding: nn.Module | None = None,
        channels: Count = 32,
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.shape = checked_shape(shape, dims=(3,))
        self.condition = Condition(embedding, self.shape, num_classes, conditions)
        self.conv1 = nn.Conv3d(self.condition.channels, channels, 3, padding=1)
        self.modulate = nn.Linear(self.condition.out_dim, channels)
        self.conv2 = nn.Conv3d(channels, self.shape[0], 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        check_input(x, self.shape)
        emb = self.modulate(F.silu(self.condition(t, y)))
        return self.conv2(
            F.silu(self.conv1(self.condition.beside(x, y, t)) + emb[..., None, None, None])
        )


class Simple2d(nn.Module):
    """A convolution down, a bottleneck, a transposed convolution up, in 2D.

    The embedding of time and label is added in the bottleneck.

    (x [B, C, H, W], t [B], y [B] or None) -> [B, C, H, W].
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int | None,
        embedding: nn.Module | None = None,
        channels: Count = 64,
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.shape = checked_shape(shape, dims=(2,))
        check_divides(self.shape, 2, "one convolution of stride 2")
        self.condition = Condition(embedding, self.shape, num_classes, conditions)
        self.down = nn.Conv2d(self.condition.channels, channels, 3, stride=2, padding=1)
        self.modulate = nn.Linear(self.condition.out_dim, channels)
        self.bottleneck = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(channels, self.shape[0], 4, stride=2, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        check_input(x, self.shape)
        emb = self.modulate(F.silu(self.condition(t, y)))
        h = F.silu(self.down(self.condition.beside(x, y, t)))
        h = F.silu(self.bottleneck(h) + emb[..., None, None])
        return self.up(h)


class Untimed3d(nn.Module):
    """Three 3D convolutions with ReLU, the last one of 1 x 1 x 1, which are not told the time.

    With 32 channels it has 28,609 parameters. It can only learn what holds at all noise levels.

    (x [B, C, D, H, W], t [B], None) -> [B, C, D, H, W].
    """

    shortcuts = False  # it cannot be told how far a step goes

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int | None = None,
        channels: Count = 32,
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.shape = checked_shape(shape, dims=(3,))
        _refuse_conditions("untimed3d", num_classes, conditions)
        self.layers = nn.Sequential(
            nn.Conv3d(self.shape[0], channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(channels, self.shape[0], 1),
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        check_input(x, self.shape)
        return self.layers(x)


class RawTime2d(nn.Module):
    """A 2D U-Net of two levels, without norms; the time itself is added at the bottom, by a line.

    Levels have two convolutions, of 2 and 4 times `channels`; a convolution of stride 2 leads from
    each to the next size, and a transposed one back, where the map that came down at that size is
    put beside it. With 64 channels and one channel of pictures it has 2,522,561 parameters.

    (x [B, C, H, W], t [B], None) -> [B, C, H, W].
    """

    shortcuts = False  # it cannot be told how far a step goes

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int | None = None,
        channels: Count = 64,
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.shape = checked_shape(shape, dims=(2,))
        check_divides(self.shape, 4, "two convolutions of stride 2")
        _refuse_conditions("rawtime2d", num_classes, conditions)
        narrow, middle, wide = channels, 2 * channels, 4 * channels
        self.level_1 = _twice(self.shape[0], middle)
        self.down_1 = nn.Conv2d(middle, middle, 2, stride=2)
        self.level_2 = _twice(middle, wide)
        self.down_2 = nn.Conv2d(wide, wide, 2, stride=2)
        self.bottom = nn.Conv2d(wide, wide, 3, padding=1)
        self.time = nn.Linear(1, wide)
        self.up_2 = nn.ConvTranspose2d(wide, middle, 2, stride=2)
        self.merge_2 = nn.Conv2d(2 * middle, middle, 3, padding=1)
        self.up_1 = nn.ConvTranspose2d(middle, narrow, 2, stride=2)
        self.merge_1 = nn.Conv2d(narrow + middle, narrow, 3, padding=1)
        self.out = nn.Conv2d(narrow, self.shape[0], 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        check_input(x, self.shape)
        full = self.level_1(x)
        half = self.down_1(full)
        h = F.relu(self.bottom(self.down_2(self.level_2(half))))
        h = h + self.time(t.to(self.time.weight.dtype)[:, None])[..., None, None]
        h = F.relu(self.merge_2(torch.cat([self.up_2(h), half], 1)))
        h = F.relu(self.merge_1(torch.cat([self.up_1(h), full], 1)))
        return self.out(h)


def _twice(channels: int, wider: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, wider, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(wider, wider, 3, padding=1),
        nn.ReLU(),
    )


def _refuse_conditions(
    name: str, num_classes: int | None, conditions: Mapping[str, Any] | None
) -> None:
    if num_classes is not None or conditions:
        raise ConfigError(f"net={name} is told neither classes nor conditions; use module=ddpm")

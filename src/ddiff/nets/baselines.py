"""The two smallest nets that learn: baselines for every other net."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.nets.checks import check_divides, check_input, checked_shape
from ddiff.nets.conditions import Condition
from ddiff.system.bounds import Count


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

"""A small classifier in 2D and 3D, whose features are used to evaluate generated samples."""

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.nets.blocks import conv
from ddiff.nets.checks import check_divides, check_input, checked_shape
from ddiff.nets.norm import Norm
from ddiff.nets.patches import space_to_depth
from ddiff.system.bounds import At, Count, Filled
from ddiff.system.errors import ConfigError


class Reader(nn.Module):
    """A classifier: x [B, C, *S] -> logits [B, K], linear in `features(x)` [B, D].

    Every level has two convolutions. The size halves (rounded up) from level to level, and the
    features are the mean of the last level over all positions.

    - `patch_size`: space to depth before the first convolution.
    - `channels`: one number a level.
    - `groups`: of the group norms, at most.
    - `dropout`: probability of dropping a feature.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        channels: Annotated[Sequence[Count], Filled()] = (32, 64, 128),
        patch_size: Count = 1,
        groups: Count = 8,
        dropout: Annotated[float, At(least=0, below=1)] = 0.2,
    ):
        super().__init__()
        self.shape, self.patch_size = checked_shape(shape), patch_size
        if not channels or min(channels) < 1:
            raise ConfigError(f"net.channels must be one positive number a level, not {channels}")
        dims = len(self.shape) - 1
        check_divides(self.shape, patch_size, f"patch_size {patch_size}")
        layers, inputs = [], self.shape[0] * patch_size**dims
        for level, width in enumerate(channels):
            layers += [
                conv(dims, inputs, width, stride=1 if level == 0 else 2),
                Norm(width, groups),
                conv(dims, width, width),
                Norm(width, groups),
            ]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.dropout = dropout
        self.out = nn.Linear(inputs, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features [B, D] of x [B, C, *S]."""
        check_input(x, self.shape)
        return self.body(space_to_depth(x, self.patch_size)).flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.dropout(self.features(x), self.dropout, self.training))

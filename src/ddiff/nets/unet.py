"""The U-Net of Ho et al. 2020 and Dhariwal and Nichol 2021, in 2D and in 3D."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.nets.blocks import (
    Block,
    Downsample,
    Modulation,
    Padding,
    Upsample,
    conv,
    finished,
    zeroed,
)
from ddiff.nets.checks import check_divides, check_input, check_unet, checked_shape
from ddiff.nets.conditions import Condition
from ddiff.nets.norm import NORM_EPS, Norm
from ddiff.nets.patches import depth_to_space, space_to_depth
from ddiff.system.bounds import At, Count, Filled, Positive
from ddiff.system.errors import ConfigError


class UNet(nn.Module):
    """U-Net in 2D and 3D: (x [B, C, *S], t [B], y [B] or None) -> [B, C, *S].

    - `shape`: [C, *S].
    - `num_classes`: None for a net without labels.
    - `channels`: one number a level; the size halves from level to level.
    - `embedding`: the embedding of the time; None: `Sinusoidal(64)`.
    - `num_blocks`: residual blocks a level on the way down; one more on the way up.
    - `attention`: sizes (the largest side) of the feature maps that get self-attention.
    - `head_dim`: channels of one attention head; None is a single head.
    - `dropout`: probability inside the residual blocks.
    - `patch_size`: space to depth before the first convolution.
    - `modulation`: the embedding scales and shifts the maps of a block ("scale_shift"), or only
      shifts them ("shift").
    - `input_skip`: adds gain(t) x to the prediction, for stems narrower than their patches.
    - `checkpoint_levels`: levels whose activations are recomputed in the backward pass.
    - `groups`: groups of the group norms, at most.
    - `mid_attention`: self-attention at the smallest size, between the way down and the way up.
    - `bounded`: applies tanh to the prediction, for an x_0 of -1 and 1. If the voxels are
      independent, E[x_0 | x_t] = tanh(l + a x_t / b^2) with prior log odds 2 l; `input_skip` then
      supplies the gain.
    - `norm_eps`: added to the variance in every group norm.
    - `downsample_padding`: where the convolutions that halve the size add zeros: at both ends of
      every axis ("both"), or at the end only ("end").
    - `conditions`: what the net is told besides a class: see `conditions.Layout`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int | None,
        channels: Annotated[Sequence[Count], Filled()],
        embedding: nn.Module | None = None,
        num_blocks: Count = 2,
        attention: Sequence[Count] = (),
        head_dim: Count | None = None,
        dropout: Annotated[float, At(least=0, below=1)] = 0.0,
        patch_size: Count = 1,
        modulation: Modulation = "scale_shift",
        input_skip: bool = False,
        checkpoint_levels: Sequence[Annotated[int, At(least=0)]] = (),
        groups: Count = 32,
        mid_attention: bool = True,
        bounded: bool = False,
        norm_eps: Positive = NORM_EPS,
        downsample_padding: Padding = "both",
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.shape = checked_shape(shape)
        self.patch_size, self.bounded = patch_size, bounded
        dims, levels = len(self.shape) - 1, len(channels)
        why = f"patch_size {patch_size} x 2^{levels - 1} for {levels} levels"
        check_divides(self.shape, patch_size * 2 ** (levels - 1), why)
        sizes = [max(self.shape[1:]) // patch_size // 2**level for level in range(levels)]
        check_unet(
            sizes, channels, attention, head_dim, checkpoint_levels, modulation, mid_attention
        )
        if downsample_padding not in ("both", "end"):
            raise ConfigError(f"net.downsample_padding={downsample_padding}; choose from both, end")

        self.condition = Condition(embedding, self.shape, num_classes, conditions)
        emb_dim = self.condition.out_dim
        depth = self.shape[0] * patch_size**dims
        self.stem = conv(dims, self.condition.channels * patch_size**dims, channels[0])
        block = partial(
            Block,
            dims=dims,
            emb_dim=emb_dim,
            dropout=dropout,
            modulation=modulation,
            groups=groups,
            norm_eps=norm_eps,
            head_dim=head_dim,
        )
        per_level = [
            partial(block, attend=size in attention, recompute=level in checkpoint_levels)
            for level, size in enumerate(sizes)
        ]
        self.down, skips = _down(per_level, dims, channels, num_blocks, downsample_padding)
        self.middle = nn.ModuleList(
            block(channels[-1], channels[-1], attend=attend) for attend in (mid_attention, False)
        )
        self.up = _up(per_level, dims, channels, num_blocks, skips)
        self.norm = Norm(channels[0], groups, eps=norm_eps)
        self.out = zeroed(conv(dims, channels[0], depth))
        self.gain = zeroed(nn.Linear(emb_dim, self.shape[0])) if input_skip else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the prediction [B, C, *S] for x [B, C, *S], t [B] from 0, and y [B] or None."""
        check_input(x, self.shape)
        emb = F.silu(self.condition(t, y))
        h = self.stem(space_to_depth(self.condition.beside(x, y, t), self.patch_size))
        skips = [h]
        for layer in self.down:
            h = layer(h, emb) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, emb)
        for layer in self.up:
            h = layer(h, emb, skips.pop()) if isinstance(layer, Block) else layer(h)
        prediction = depth_to_space(self.out(self.norm(h)), self.patch_size)
        return finished(prediction, x, emb, self.gain, self.bounded)


def _down(
    blocks: list[Callable[..., Block]],
    dims: int,
    channels: Sequence[int],
    num_blocks: int,
    padding: Padding,
) -> tuple[nn.ModuleList, list[int]]:
    """Return the layers of the way down, and the channels of each skip.

    The skips are the stem's output and every layer's.
    """
    layers, skips = nn.ModuleList(), [channels[0]]
    for level, (block, width) in enumerate(zip(blocks, channels, strict=True)):
        for _ in range(num_blocks):
            layers.append(block(skips[-1], width))
            skips.append(width)
        if level < len(channels) - 1:
            layers.append(Downsample(dims, width, padding))
            skips.append(width)
    return layers, skips


def _up(
    blocks: list[Callable[..., Block]],
    dims: int,
    channels: Sequence[int],
    num_blocks: int,
    skips: list[int],
) -> nn.ModuleList:
    """Return the layers of the way up; each block takes the last skip that is left."""
    layers, inputs = nn.ModuleList(), channels[-1]
    for level in reversed(range(len(channels))):
        for _ in range(num_blocks + 1):
            layers.append(blocks[level](inputs + skips.pop(), channels[level]))
            inputs = channels[level]
        if level > 0:
            layers.append(Upsample(dims, inputs))
    return layers

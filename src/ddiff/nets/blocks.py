"""Building blocks of the U-Net; every block works in 2D and in 3D."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddiff.nets.norm import NORM_EPS, Norm

Modulation = Literal["scale_shift", "shift"]
Padding = Literal["both", "end"]
FEW_TOKENS = 256  # 16^2; see experiments/step_profile
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by dimensions of [B, C, *S]


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int | None = None,
) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution; without `padding`, padded so that only `stride` changes the size."""
    layer = {2: nn.Conv2d, 3: Conv3d}[dims]
    padding = kernel // 2 if padding is None else padding
    return layer(inputs, outputs, kernel, stride=stride, padding=padding)


class Conv3d(nn.Conv3d):
    """A 3D convolution without the wrong gradients of oneDNN on CPUs.

    oneDNN's weight gradient for bfloat16 volumes of depth 2 reads uninitialised memory (torch
    2.13). If the padding is applied first, the depth is 4 and the gradient is right.
    """

    def forward(self, input: Tensor) -> Tensor:
        x, padding = self.padded(input)
        if x is input:
            return super().forward(x)
        return F.conv3d(x, self.weight, self.bias, self.stride, padding)

    def padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Return x, padded if necessary, and the padding that is left to apply."""
        if x.is_cpu and x.shape[2] == 2 and self.kernel_size[0] == 3:
            return F.pad(x, (0, 0, 0, 0, 1, 1)), (0, 1, 1)
        depth, height, width = map(int, self.padding)
        return x, (depth, height, width)


def zeroed(layer: nn.Module) -> nn.Module:
    """Set all parameters of the layer to 0 and return it: a block then begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def finished(
    prediction: Tensor, x: Tensor, emb: Tensor, gain: nn.Module | None, bounded: bool
) -> Tensor:
    """Return prediction + gain(emb) x, [B, C, *S], or its tanh if `bounded`."""
    if gain is not None:
        prediction = torch.addcmul(prediction, gain(emb)[(...,) + (None,) * (x.ndim - 2)], x)
    return prediction.tanh() if bounded else prediction


class Dropout(nn.Module):
    """Dropout with 16-bit random numbers on CPUs, four times as fast as a float per value."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.p > 0 and x.is_cpu) or torch.compiler.is_compiling():
            return F.dropout(x, self.p, self.training)
        dropped = round(self.p * 2**16)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()] >= dropped - 2**15
        mask = torch.empty_like(x)  # in the memory format of x
        torch.as_strided(mask, (x.numel(),), (1,)).copy_(kept).mul_(2**16 / (2**16 - dropped))
        return x * mask


class ResBlock(nn.Module):
    """A residual block: norm, SiLU and convolution, twice, plus a shortcut.

    (x [B, inputs, *S], emb [B, emb_dim]) -> [B, outputs, *S]. The embedding scales and shifts the
    maps between the convolutions, or only shifts them (`modulation`). `emb_dim` None: no embedding.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        emb_dim: int | None,
        dropout: float,
        modulation: Modulation,
        groups: int,
        norm_eps: float = NORM_EPS,
    ):
        super().__init__()
        self.norm1 = Norm(inputs, groups, eps=norm_eps)
        self.conv1 = conv(dims, inputs, outputs)
        self.has_scale = modulation == "scale_shift"
        width = outputs * (2 if self.has_scale else 1)
        self.modulate = nn.Linear(emb_dim, width) if emb_dim else None
        self.norm2 = Norm(outputs, groups, eps=norm_eps)
        self.dropout = Dropout(dropout)
        self.conv2 = zeroed(conv(dims, outputs, outputs))
        self.shortcut = conv(dims, inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        # first, so that its gradient, as large as x, is computed last and does not stay in memory
        shortcut = self.shortcut(x)
        h = self.conv1(self.norm1(x))
        if self.modulate is None:
            h = self.norm2(h)
        elif self.has_scale:
            h = self.norm2(h, *self.modulate(emb).chunk(2, dim=1))
        else:
            h = self.norm2(h + self.modulate(emb)[(...,) + (None,) * (x.ndim - 2)])
        return self.conv2(self.dropout(h)).add_(shortcut)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention softmax(q k^T / sqrt(D)) v, for q, k and v [B, heads, N, D].

    On CPUs, torch's own function takes twice as long for few tokens, because it avoids keeping N^2
    scores.
    """
    if q.is_cpu and q.shape[2] <= FEW_TOKENS:
        return (q * q.shape[3] ** -0.5 @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention over all positions of x [B, C, *S], with a residual connection.

    `head_dim` None is a single head.
    """

    def __init__(
        self, channels: int, head_dim: int | None, groups: int, norm_eps: float = NORM_EPS
    ):
        super().__init__()
        self.heads = channels // (head_dim or channels)
        self.norm = Norm(channels, groups, silu=False, eps=norm_eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, N, C], a view of channels-last x
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # [B, N, 3, heads, head_dim]
        q, k, v = qkv.unbind(2)  # in this order of axes their gradients are one copy, not two
        h = attended(*(part.transpose(1, 2) for part in (q, k, v))).transpose(1, 2).flatten(2)
        return x + self.project(h).transpose(1, 2).unflatten(2, x.shape[2:])


def joined(x: Tensor, skip: Tensor) -> Tensor:
    """Concatenate x and skip, [B, C, *S] each, along the channels."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Joined.apply(x, skip)
    return torch.cat([x, skip], dim=1)


class _Joined(torch.autograd.Function):
    """torch.cat with a copy of the gradient for each input.

    The gradients of torch.cat itself are views of one tensor, which would stay in memory until the
    backward pass has used the gradient of the skip.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, skip):
        return torch.cat([x, skip], dim=1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.sizes = [len(value[0]) for value in inputs]
        ctx.format = FORMATS[inputs[0].ndim]

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        parts = dy.split(ctx.sizes, dim=1)
        return tuple(part.contiguous(memory_format=ctx.format) for part in parts)


class Block(nn.Module):
    """A residual block, with attention after it if `attend`.

    (x [B, C, *S], emb [B, E], skip) -> [B, outputs, *S]. A skip is joined to the channels of x
    first; `inputs` counts both. If `recompute`, activations are computed again in the backward pass
    instead of kept.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        attend: bool,
        recompute: bool = False,
        head_dim: int | None,
        groups: int,
        norm_eps: float = NORM_EPS,
        **options,
    ):
        super().__init__()
        self.recompute = recompute
        norms: dict[str, Any] = {"groups": groups, "norm_eps": norm_eps}
        self.res = ResBlock(inputs=inputs, outputs=outputs, **norms, **options)
        self.attention = Attention(outputs, head_dim, **norms) if attend else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._forward, x, emb, skip, use_reentrant=False)
        return self._forward(x, emb, skip)

    def _forward(self, x: Tensor, emb: Tensor, skip: Tensor | None) -> Tensor:
        x = x if skip is None else joined(x, skip)
        return self.attention(self.res(x, emb))


class Downsample(nn.Module):
    """A convolution of stride 2, which halves the size of every axis.

    `padding`: a zero at both ends of every axis ("both"), or at the end only ("end").
    """

    def __init__(self, dims: int, channels: int, padding: Padding = "both"):
        super().__init__()
        self.at_the_end = (0, 1) * dims if padding == "end" else None
        own = 0 if self.at_the_end else None
        self.conv = conv(dims, channels, channels, stride=2, padding=own)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.at_the_end) if self.at_the_end else x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a convolution.

    Both are computed as one transposed convolution that equals them. Its kernel of 4 is the sum of
    the kernel of 3 at two offsets: 3.4 times fewer multiplications in 3D, 2.2 times in 2D.
    """

    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.conv = conv(dims, channels, channels)
        self.transposed = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[dims]

    def kernel(self) -> Tensor:
        """Return the kernel of the transposed convolution, [C, C, 4, 4] or [C, C, 4, 4, 4]."""
        weight = self.conv.weight.transpose(0, 1)
        for axis in range(2, weight.ndim):
            a, b, c = weight.unbind(axis)
            weight = torch.stack([c, b + c, a + b, a], axis)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x, self.kernel(), self.conv.bias, stride=2, padding=1)

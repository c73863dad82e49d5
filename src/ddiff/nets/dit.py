"""The diffusion transformer of Peebles and Xie 2023, in 2D and in 3D, with rotary positions."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.nets.blocks import Dropout, attended, finished, zeroed
from ddiff.nets.checks import check_divides, check_input, checked_shape
from ddiff.nets.conditions import Condition
from ddiff.nets.embedding import ExactBuffers
from ddiff.nets.patches import depth_to_space, space_to_depth
from ddiff.system.bounds import At, Count, Positive
from ddiff.system.errors import ConfigError

LONGEST = 100.0  # the longest period over the shortest (Heo et al. 2024, axial)
EPS = 1e-6  # added to the variance in norms, as in the paper's code


class DiT(nn.Module):
    """Diffusion transformer in 2D and 3D: (x [B, C, *S], t [B], y [B] or None) -> [B, C, *S].

    Patches of x become tokens, every token attends to all others, and the embedding of time and
    label shifts, scales and gates every block (adaLN-Zero). Positions are rotary, so the weights
    fit every size: a net trained at one size can start a training at another.

    - `shape`: [C, *S].
    - `num_classes`: None for a net without labels.
    - `width`: channels of a token; a multiple of `head_dim`.
    - `depth`: number of blocks.
    - `head_dim`: channels of one attention head; at least 4 in 2D and 6 in 3D.
    - `patch_size`: side of a patch; it divides every side of the input.
    - `embedding`: the embedding of the time; None: `Sinusoidal(64)`.
    - `mlp_ratio`: hidden channels of a block's MLP, in units of `width`.
    - `dropout`: probability of dropping an output of an attention or an MLP.
    - `bounded`: applies tanh to the prediction, as in `UNet`.
    - `input_skip`: adds gain(t) x to the prediction, as in `UNet`.
    - `conditions`: what the net is told besides a class: see `conditions.Layout`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int | None,
        width: Count,
        depth: Count,
        head_dim: Count = 64,
        patch_size: Count = 2,
        embedding: nn.Module | None = None,
        mlp_ratio: Positive = 4.0,
        dropout: Annotated[float, At(least=0, below=1)] = 0.0,
        bounded: bool = False,
        input_skip: bool = False,
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.shape = checked_shape(shape)
        self.patch_size, self.bounded = patch_size, bounded
        check_divides(self.shape, patch_size, f"patch_size {patch_size}")
        if width % head_dim:
            raise ConfigError(f"net.head_dim={head_dim} does not divide net.width={width}")
        self.grid = tuple(size // patch_size for size in self.shape[1:])
        self.rotary = Rotary(self.grid, head_dim)

        self.condition = Condition(embedding, self.shape, num_classes, conditions)
        emb_dim = self.condition.out_dim
        values = self.shape[0] * patch_size ** len(self.grid)  # in a patch
        self.stem = nn.Linear(self.condition.channels * patch_size ** len(self.grid), width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, head_dim, emb_dim, mlp_ratio, dropout) for _ in range(depth)
        )
        self.modulate = zeroed(nn.Linear(emb_dim, 2 * width))
        self.out = zeroed(nn.Linear(width, values))
        self.gain = zeroed(nn.Linear(emb_dim, self.shape[0])) if input_skip else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the prediction [B, C, *S] for x [B, C, *S], t [B] from 0, and y [B] or None."""
        check_input(x, self.shape)
        emb = F.silu(self.condition(t, y))
        patches = space_to_depth(self.condition.beside(x, y, t), self.patch_size)
        h = self.stem(patches.flatten(2).mT)  # [B, N, width]
        for block in self.blocks:
            h = block(h, emb, self.rotary)
        h = modulated(h, *self.modulate(emb)[:, None].chunk(2, dim=2))
        prediction = depth_to_space(self.out(h).mT.unflatten(2, self.grid), self.patch_size)
        return finished(prediction, x, emb, self.gain, self.bounded)


class Rotary(ExactBuffers):
    """Rotary positions (Su et al. 2021) over the axes of a grid, for heads of `head_dim` channels.

    The first channels of a head form pairs, an equal number for every axis. The pair i of n turns
    by the position along its axis times 100^(-i / n), so that the product of a query and a key
    depends on the difference of their positions only. Channels that are left over do not turn.

    - `grid`: number of tokens along each axis.
    """

    def __init__(self, grid: Sequence[int], head_dim: int):
        super().__init__()
        pairs = head_dim // (2 * len(grid))  # of one axis
        if pairs == 0:
            raise ConfigError(
                f"net.head_dim={head_dim} is too small for positions along {len(grid)} axes; "
                f"it is at least {2 * len(grid)}"
            )
        frequencies = LONGEST ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
        places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid))
        angles = (places[:, :, None] * frequencies).flatten(1)  # [N, axes pairs]
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys x [B, heads, N, head_dim], in float32."""
        turning = self.cos.shape[1]
        a, b, rest = x.float().split([turning, turning, x.shape[3] - 2 * turning], dim=3)
        turned = [a * self.cos - b * self.sin, a * self.sin + b * self.cos]
        return torch.cat([*turned, rest], dim=3)


class RMSNorm(nn.Module):
    """RMS norm of the last axis, of `dim` channels, with a learned scale in its own type."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, eps=EPS) * self.weight


class SelfAttention(nn.Module):
    """Self-attention of tokens x [B, N, width]; queries and keys are normed, then turned.

    With normed queries and keys the scores stay bounded, also in half precision (Dehghani et al.
    2023).
    """

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.heads = width // head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = RMSNorm(head_dim)
        self.norm_k = RMSNorm(head_dim)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # [B, N, 3, heads, head_dim]
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = rotary(self.norm_q(q)).to(v.dtype), rotary(self.norm_k(k)).to(v.dtype)
        return self.project(attended(q, k, v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention, then an MLP, both residual; a new block is the identity (adaLN-Zero).

    (x [B, N, width], emb [B, emb_dim], rotary) -> [B, N, width].
    """

    def __init__(self, width: int, head_dim: int, emb_dim: int, mlp_ratio: float, dropout: float):
        super().__init__()
        hidden = round(mlp_ratio * width)
        self.attention = SelfAttention(width, head_dim)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )
        self.dropout = Dropout(dropout)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.modulate = zeroed(nn.Linear(emb_dim, 6 * width))

    def forward(self, x: Tensor, emb: Tensor, rotary: Rotary) -> Tensor:
        shift, scale, gate, *of_mlp = self.modulate(emb)[:, None].chunk(6, dim=2)
        x = x + gate * self.dropout(self.attention(modulated(x, shift, scale), rotary))
        shift, scale, gate = of_mlp
        return x + gate * self.dropout(self.mlp(modulated(x, shift, scale)))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return norm(x) (1 + scale) + shift for x [B, N, width], scale and shift [B, 1, width]."""
    return F.layer_norm(x, x.shape[2:], eps=EPS) * (1 + scale) + shift

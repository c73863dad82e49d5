"""Group norm, scale and shift, SiLU as one operation that keeps only its input for backward.

On CPUs, PyTorch's channels-last backward of group norm takes 15 to 80 times as long as its forward.
A backend may put a fused kernel of the same signature in the place of `group_norm`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-5  # added to the variance


class Norm(nn.Module):
    """Group norm of x [B, C, *S], then SiLU if `silu`.

    It has at most `groups` groups: the largest number that divides `channels`.
    """

    def __init__(self, channels: int, groups: int = 32, silu: bool = True, eps: float = NORM_EPS):
        super().__init__()
        self.groups = next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)
        self.silu = silu
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.operation = group_norm

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Return `norm(x) (1 + scale) + shift`, [B, C, *S], then SiLU if `silu`.

        - `scale`, `shift`: [B, C], both or neither.
        """
        return self.operation(
            x, self.groups, self.weight, self.bias, scale, shift, silu=self.silu, eps=self.eps
        )

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, groups={self.groups}, silu={self.silu}"


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
    eps: float = NORM_EPS,
) -> Tensor:
    """Return the group norm of x [B, C, *S], scaled, shifted and activated, in the type of x.

    - `weight`, `bias`: [C].
    - `scale`, `shift`: [B, C]; the result is multiplied by 1 + scale, then shift is added. Both or
      neither.
    """
    if scale is None or shift is None:
        scale, shift = weight[None], bias[None]
    else:
        scale, shift = weight * (1 + scale), bias * (1 + scale) + shift
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():  # compilers fuse these
        y = F.group_norm(x, groups, eps=eps).to(x.dtype)
        y = y * _wide(scale, x) + _wide(shift, x)
        return F.silu(y) if silu else y
    return _GroupNorm.apply(x, scale, shift, groups, silu, eps)


def _wide(value: Tensor, x: Tensor) -> Tensor:
    """Reshape [B, C] to [B, C, 1, ...] in the type of x."""
    return value.to(x.dtype)[(...,) + (None,) * (x.ndim - 2)]


def _normalised(
    x: Tensor, groups: int, eps: float, a: Tensor | None = None, b: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return a (x - mean) rstd + b [B, C, *S], with a and b [C] or None, and rstd [B, G]."""
    batch, channels, voxels = x.shape[0], x.shape[1], x.shape[2:].numel()
    # CUDA's operation reads one memory format; the CPU's is not vectorised for small maps in
    # channels-last.
    plain = not x.is_cpu or (voxels < 1024 and channels < 16 * groups)
    dense = x.contiguous() if plain else x
    n, _, rstd = torch.native_group_norm(dense, a, b, batch, channels, voxels, groups, eps)
    return n if n.stride() == x.stride() else torch.empty_like(x).copy_(n), rstd


class _GroupNorm(torch.autograd.Function):
    """Autograd of y = silu(z), z = a n + b, n = (x - mean) rstd; a and b are [B, C] or [1, C]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, a, b, groups, silu, eps):
        if len(a) == 1:
            z, _ = _normalised(x, groups, eps, a[0].to(x.dtype), b[0].to(x.dtype))
        else:
            n, _ = _normalised(x, groups, eps)
            z = torch.addcmul(_wide(b, x), n, _wide(a, x))
        return F.silu(z, inplace=True) if silu else z

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, a, b, ctx.groups, ctx.silu, ctx.eps = inputs
        ctx.save_for_backward(x, a, b)

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients. With sums over S, da = sum dz n and db = sum dz. With means over a group,

        dx = rstd (a dz - mean(a dz) - n mean(a dz n)).
        """
        x, a, b = ctx.saved_tensors
        n, rstd = _normalised(x, ctx.groups, ctx.eps)
        dz = dy
        if ctx.silu:
            z = torch.addcmul(_wide(b, x), n, _wide(a, x))
            dz = torch.ops.aten.silu_backward(dy, z)
            del z  # at full resolution these maps are most of the memory
        space = tuple(range(2, x.ndim))
        db = dz.sum(space).to(a)  # [B, C], accumulated in float32 and rounded once
        da = (dz * n).sum(space).to(a)
        width = x[0].numel() // ctx.groups  # values in a group

        def group_mean(value: Tensor) -> Tensor:
            grouped = (a * value).unflatten(1, (ctx.groups, -1)).sum(2, keepdim=True) / width
            return (rstd[..., None] * grouped).expand(-1, -1, x.shape[1] // ctx.groups).flatten(1)

        n = torch.addcmul(_wide(-group_mean(db), x), n, _wide(-group_mean(da), x))
        gain = a * rstd.repeat_interleave(x.shape[1] // ctx.groups, dim=1)
        dx = torch.addcmul(n, dz, _wide(gain, x))
        return dx, da.sum_to_size(a.shape), db.sum_to_size(b.shape), None, None, None

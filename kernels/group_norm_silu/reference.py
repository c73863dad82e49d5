"""Group norm, scale and shift, SiLU, as PyTorch writes them."""

import torch.nn.functional as F
from torch import Tensor


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """x [B, C, *S], weight and bias [C], scale and shift [B, C] -> [B, C, *S], in the type of x."""
    y = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
    if scale is not None and shift is not None:
        space = (...,) + (None,) * (x.ndim - 2)
        y = y * (1 + scale.to(x.dtype)[space]) + shift.to(x.dtype)[space]
    return F.silu(y) if silu else y

"""The same sums in torch."""

import torch
from torch import Tensor


def gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Products of bfloat16 numbers are exact in float32; here they are added in float32 too."""
    ones, zeros = [1] * (x.ndim - 2), [0] * (x.ndim - 2)
    how = ones, ones, ones, False, zeros, 1
    backward = torch.ops.aten.convolution_backward
    mask = [False, True, True]
    _, dw, db = backward(dy.float(), x.float(), weight, [len(weight)], *how, mask)
    return torch.empty_like(weight).copy_(dw), db

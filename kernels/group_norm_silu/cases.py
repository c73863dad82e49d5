"""Norms of the U-Nets, batch 8 and 16, and of a volume at full resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..case import Case
from . import FORMATS, NORM, NORM_BACKWARD, group_norm, reference

SHAPES: list[tuple[tuple[int, ...], int]] = [  # [B, C, *S], groups
    ((8, 128, 32, 32), 32),
    ((8, 256, 16, 16), 32),
    ((8, 512, 16, 16), 32),
    ((8, 256, 8, 8), 32),
    ((8, 256, 4, 4), 32),
    ((16, 128, 32, 32), 32),
    ((16, 256, 16, 16), 32),
    ((8, 32, 16, 16, 16), 8),
    ((8, 48, 8, 8, 8), 8),
    ((8, 64, 4, 4, 4), 8),
    ((2, 32, 64, 64, 64), 8),
]


def cases(device: str) -> list[Case]:
    """Tolerances: one unit in the last place of a value below 8."""
    forward = [_forward(*shape, torch.bfloat16, 2**-5, device) for shape in SHAPES]
    forward.append(_forward(*SHAPES[0], torch.float32, 1e-5, device))
    return forward + [_backward(*shape, torch.bfloat16, 2**-5, device) for shape in SHAPES]


def _forward(shape, groups: int, dtype: torch.dtype, tolerance: float, device: str) -> Case:
    x, weight, bias, _ = _inputs(shape, dtype, device)
    typed = weight.to(dtype), bias.to(dtype)

    def native() -> list[Tensor]:
        return [group_norm(x, groups, weight, bias)]

    def plain() -> list[Tensor]:
        return [reference.group_norm(x.float(), groups, weight, bias).to(dtype)]

    def eager() -> Tensor:
        return F.silu(F.group_norm(x, groups, *typed))

    moved = 2 * x.numel() * x.element_size()
    return Case(_name(shape, dtype), native, plain, eager, moved, tolerance)


def _backward(shape, groups: int, dtype: torch.dtype, tolerance: float, device: str) -> Case:
    x, weight, bias, dy = _inputs(shape, dtype, device)
    _, mean, rstd = NORM(x, weight, bias, None, None, groups, True, 1e-5)
    leaf, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    typed = weight.to(dtype), bias.to(dtype)
    with torch.enable_grad():
        y = F.silu(F.group_norm(leaf, groups, *typed))

    def native() -> list[Tensor]:
        saved = mean, rstd, weight, bias, None, None
        return [NORM_BACKWARD(dy, x, *saved, groups, True)[0]]

    def plain() -> list[Tensor]:
        with torch.enable_grad():
            exact = reference.group_norm(wide, groups, weight, bias)
        return [torch.autograd.grad(exact, wide, dy.float())[0].to(dtype)]

    def eager() -> object:
        return torch.autograd.grad(y, leaf, dy, retain_graph=True)

    moved = 3 * x.numel() * x.element_size()
    return Case(f"{_name(shape, dtype)}, backward", native, plain, eager, moved, tolerance)


def _inputs(shape, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, dy."""
    generator = torch.Generator(device).manual_seed(1)
    x, dy = torch.randn(2, *shape, generator=generator, device=device).to(dtype)
    weight, bias = torch.rand(2, shape[1], generator=generator, device=device)
    layout = FORMATS[len(shape)]
    return (
        x.contiguous(memory_format=layout),
        weight,
        bias,
        dy.contiguous(memory_format=layout),
    )


def _name(shape, dtype: torch.dtype) -> str:
    kind = {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
    return f"{shape[0]} x {shape[1]} x {shape[2]}^{len(shape) - 2}, {kind}"

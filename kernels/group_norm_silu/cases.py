"""Norms of the U-Nets, batch 8 and 16, and of a volume at full resolution."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ..measuring import Case
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
    pairs = [list(_passes(*shape, torch.bfloat16, 2**-5, device)) for shape in SHAPES]
    single = next(_passes(*SHAPES[0], torch.float32, 1e-5, device))
    return [forward for forward, _ in pairs] + [single] + [backward for _, backward in pairs]


def _passes(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, tolerance: float, device: str
) -> Iterator[Case]:
    """Forward, then backward."""
    layout = FORMATS[len(shape)]
    generator = torch.Generator(device).manual_seed(1)
    both = torch.randn(2, *shape, generator=generator, device=device).to(dtype)
    x, dy = (value.contiguous(memory_format=layout) for value in both)
    weight, bias = torch.rand(2, shape[1], generator=generator, device=device)
    typed = weight.to(dtype), bias.to(dtype)
    kind = {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
    name = f"{shape[0]} x {shape[1]} x {shape[2]}^{len(shape) - 2}, {kind}"
    moved = x.numel() * x.element_size()
    yield Case(
        name=name,
        native=lambda: [group_norm(x, groups, weight, bias)],
        reference=lambda: [reference(x.float(), groups, weight, bias).to(dtype)],
        eager=lambda: F.silu(F.group_norm(x, groups, *typed)),
        bytes=2 * moved,
        tolerance=tolerance,
    )
    _, mean, rstd = NORM(x, weight, bias, None, None, groups, True, 1e-5)
    leaf, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    saved = mean, rstd, weight, bias, None, None
    with torch.enable_grad():
        y = F.silu(F.group_norm(leaf, groups, *typed))

    def plain() -> list[torch.Tensor]:
        with torch.enable_grad():
            exact = reference(wide, groups, weight, bias)
        return [torch.autograd.grad(exact, wide, dy.float())[0].to(dtype)]

    yield Case(
        name=f"{name}, backward",
        native=lambda: [NORM_BACKWARD(dy, x, *saved, groups, True)[0]],
        reference=plain,
        eager=lambda: torch.autograd.grad(y, leaf, dy, retain_graph=True),
        bytes=3 * moved,
        tolerance=tolerance,
    )

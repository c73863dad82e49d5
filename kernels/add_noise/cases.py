"""What `python -m ddiff.kernels` checks and times."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..case import Case
from . import add_noise, reference

KEY = 0x1234_5678_9ABC_DEF0


def cases(device: str) -> list[Case]:
    shapes = [(64, 1, 64, 64, 64), (8, 1, 64, 64, 64), (8, 3, 32, 32)]
    return [_case(device, shape) for shape in shapes]


def _case(device: str, shape: tuple[int, ...]) -> Case:
    generator = torch.Generator(device).manual_seed(1)
    x_0 = torch.rand(shape, generator=generator, device=device) * 2 - 1
    angle = torch.rand(shape[0], generator=generator, device=device)
    a, b = angle.cos(), angle.sin()
    coefficients = torch.stack([a, b, a, -b], dim=1)  # the objective is v
    samples = torch.arange(shape[0], device=device)

    def native() -> Sequence[Tensor]:
        return add_noise(x_0, coefficients, samples, KEY, 7)

    def plain() -> Sequence[Tensor]:
        return reference(x_0, coefficients, samples, KEY, 7)

    def eager() -> Sequence[Tensor]:
        eps = torch.randn_like(x_0)
        alpha, sigma, e, s = coefficients.view(-1, 4, *[1] * (x_0.ndim - 1)).unbind(1)
        return alpha * x_0 + sigma * eps, e * eps + s * x_0

    name = " x ".join(map(str, shape))
    return Case(name, native, plain, eager, 12 * x_0.numel(), 5e-6)

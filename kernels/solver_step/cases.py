"""Cases of solver_step and add_noise that `python -m ddiff.kernels` checks and times."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..measuring import Case
from . import add_noise, noise_reference, reference, solver_step

LARGE, SMALL = (64, 1, 64, 64, 64), (8, 3, 32, 32)
ROW = [1.02, -0.2, 0.7, 0.3, -0.1, 0.4]  # p, q, a, b, c, d: of the size real plans have; then w, e
KEY = 0x1234_5678_9ABC_DEF0


def cases(device: str) -> list[Case]:
    return [
        _case("64 x 1 x 64^3", device, LARGE),
        _case("64 x 1 x 64^3, multistep", device, LARGE, multistep=True),
        _case("64 x 1 x 64^3, noisy", device, LARGE, noisy=True),
        _case("64 x 1 x 64^3, guided", device, LARGE, scale=0.25),
        _case("64 x 1 x 64^3, bf16 pred", device, LARGE, dtype=torch.bfloat16),
        _case("8 x 3 x 32^2", device, SMALL),
        _case("8 x 3 x 32^2, guided, bf16 pred, noisy", device, SMALL, torch.bfloat16, 0.25, True),
        *(_noise_case(device, shape) for shape in (LARGE, (8, *LARGE[1:]), SMALL)),
    ]


def _case(
    name: str,
    device: str,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    scale: float = 0.0,
    noisy: bool = False,
    multistep: bool = False,
) -> Case:
    generator = torch.Generator(device).manual_seed(1)
    start = torch.randn(shape, generator=generator, device=device)
    halves = 2 if scale else 1
    pred = torch.randn(halves * shape[0], *shape[1:], generator=generator, device=device).to(dtype)
    table = torch.tensor([[*ROW, scale, 0.0]], device=device)
    step = torch.zeros((), dtype=torch.int64, device=device)
    samples = torch.arange(shape[0], device=device)

    def repeated(run: Callable[..., None]) -> Callable[[], Sequence[Tensor]]:
        """Steps in place again and again: |a| + |b| < 1 and the clamp keep x finite."""
        x, x_0 = start.clone(), start.clone() if multistep else None

        def call() -> Sequence[Tensor]:
            run(x, pred, x_0, table, step, samples, KEY, 1.0, noisy)
            return (x,) if x_0 is None else (x, x_0)

        return call

    def eager() -> Tensor:
        """The same step as `diffusion.solve` does it."""
        p, q, a, b, c, d = ROW
        g = pred
        if scale:
            labelled, unlabelled = pred.chunk(2)
            g = (1 + scale) * labelled - scale * unlabelled
        x_0 = (p * start + q * g.to(start.dtype)).clamp(-1, 1)
        new = a * start + b * x_0
        if multistep:
            new = new + c * start
        if noisy:
            new = new + d * torch.randn_like(start)
        return new

    moved = start.numel() * (8 + halves * dtype.itemsize + (8 if multistep else 0))
    return Case(name, repeated(solver_step), repeated(reference), eager, moved, 5e-6)


def _noise_case(device: str, shape: tuple[int, ...]) -> Case:
    generator = torch.Generator(device).manual_seed(1)
    x_0 = torch.rand(shape, generator=generator, device=device) * 2 - 1
    angle = torch.rand(shape[0], generator=generator, device=device)
    a, b = angle.cos(), angle.sin()
    coefficients = torch.stack([a, b, a, -b], dim=1)  # the objective is v
    inputs = x_0, coefficients, torch.arange(shape[0], device=device), KEY, 7

    def eager() -> Sequence[Tensor]:
        eps = torch.randn_like(x_0)
        alpha, sigma, e, s = coefficients.view(-1, 4, *[1] * (x_0.ndim - 1)).unbind(1)
        return alpha * x_0 + sigma * eps, e * eps + s * x_0

    return Case(
        name=f"add_noise {' x '.join(map(str, shape))}",
        native=lambda: add_noise(*inputs),
        reference=lambda: noise_reference(*inputs),
        eager=eager,
        bytes=12 * x_0.numel(),
        tolerance=5e-6,
    )

"""add_noise against forward noising in float64, for every objective."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddiff.diffusion.objectives import X0, Eps, Objective, V
from ddiff.diffusion.schedules import cosine
from ddiff.kernels.philox import normal
from ddiff.kernels.solver_step import add_noise
from ddiff.kernels.solver_step import noise_reference as reference
from ddiff.system.errors import KernelError

KEY = 0x0FED_CBA9_8765_4321
SHAPES = [(1, 1), (3, 3), (2, 5, 3, 3), (5, 3, 32, 32), (2, 1, 17, 16, 16)]

Run = Callable[..., tuple[Tensor, Tensor]]


def inputs(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.rand(shape, generator=generator) * 2 - 1
    coefficients = torch.randn(shape[0], 4, generator=generator)
    samples = torch.randint(1 << 62, (shape[0],), generator=generator)
    return x_0.to(device), coefficients.to(device), samples.to(device)


@pytest.mark.parametrize("run", [add_noise, reference])
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 5), (2, 0, 5)])
def test_follows_the_definition(run: Run, shape: tuple[int, ...], device: str) -> None:
    follows(run, shape, device)


def test_past_the_cache() -> None:
    """Large enough that it is written past the cache, with a tile cut short at each sample."""
    follows(add_noise, (2, 2_100_004), "cpu")


def follows(run: Run, shape: tuple[int, ...], device: str) -> None:
    x_0, coefficients, samples = inputs(shape, device)
    draw = (1 << 32) - 1
    x_t, target = run(x_0, coefficients, samples, KEY, draw)
    eps = normal(KEY, samples, draw, shape[1:]).double()
    alpha, sigma, e, s = coefficients.double().view(-1, 4, *[1] * (len(shape) - 1)).unbind(1)
    torch.testing.assert_close(x_t.double(), alpha * x_0 + sigma * eps, rtol=1e-6, atol=6e-6)
    torch.testing.assert_close(target.double(), e * eps + s * x_0, rtol=1e-6, atol=6e-6)


@pytest.mark.parametrize("objective", [Eps(), X0(), V()])
def test_is_what_training_computes(objective: Objective, device: str) -> None:
    schedule = cosine(T=100)
    x_0, _, samples = inputs((4, 2, 7, 5), device)
    t = torch.tensor([1, 30, 70, 100], device=device)
    a, b = schedule.signal_and_noise(t, x_0)
    coefficients = torch.cat([c.reshape(4, 1) for c in (a, b, *objective.mix(a, b))], dim=1)
    x_t, target = add_noise(x_0, coefficients, samples, KEY, 3)
    eps = normal(KEY, samples, 3, (2, 7, 5))
    torch.testing.assert_close(x_t, a * x_0 + b * eps, rtol=0, atol=3e-6)
    torch.testing.assert_close(target, objective.target(schedule, x_0, eps, t), rtol=0, atol=3e-6)


def test_unaligned(device: str) -> None:
    for shape in ((3, 5, 41), (3, 64)):  # of the second four numbers could be loaded at once
        x_0, coefficients, samples = inputs(shape, device)
        expected = add_noise(x_0, coefficients, samples, KEY, 3)
        for offset in (1, 2, 3):
            moved = torch.zeros(x_0.numel() + 8, device=device)[offset : offset + x_0.numel()]
            moved.copy_(x_0.flatten())
            found = add_noise(moved.view(shape), coefficients, samples, KEY, 3)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_torch_sees_through(device: str) -> None:
    values = (*inputs((2, 3, 5), device), KEY, 4)
    torch.library.opcheck(torch.ops.ddiff.add_noise.default, values)
    results = [
        torch.compile(f, backend="aot_eager", fullgraph=True)(*values)
        for f in (add_noise, reference)
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-6)


def test_wrong_tensors_are_named() -> None:
    x_0, coefficients, samples = inputs((2, 3, 4), "cpu")
    with pytest.raises(KernelError, match="x_0 is float64"):
        add_noise(x_0.double(), coefficients, samples, KEY, 0)
    with pytest.raises(KernelError, match=r"x_0 is float32 .* not contiguous"):
        add_noise(x_0.mT, coefficients, samples, KEY, 0)
    with pytest.raises(KernelError, match=r"coefficients is float32 \[2, 3\].* \[2, 4\]"):
        add_noise(x_0, coefficients[:, :3].contiguous(), samples, KEY, 0)
    with pytest.raises(KernelError, match=r"samples is int64 \[1\]"):
        add_noise(x_0, coefficients, samples[:1], KEY, 0)
    for draw in (-1, 1 << 32):
        with pytest.raises(KernelError, match="draw"):
            add_noise(x_0, coefficients, samples, KEY, draw)

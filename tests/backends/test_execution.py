"""Every backend makes the same samples: same noise, same plan, same net."""

import pytest
import torch
from torch import Tensor, nn

from ddiff.backends import Compiled, Eager, Native, TensorRT
from ddiff.diffusion import solve
from ddiff.errors import DdiffError
from ddiff.kernels import philox
from ddiff.nets import Simple2d, Sinusoidal
from ddiff.precision import Precision
from ddiff.random import key
from ddiff.sampling import Generation
from tests.support.sampling import DEVICE, PLANS, generation, labels, psnr, unet


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_native_samples_are_the_eager_ones_and_those_of_the_equations(kind, plan) -> None:
    eager, native = (generation(kind, plan, backend) for backend in (Eager(), Native()))
    y = labels(kind, 3)
    a, b = eager.batch([4, 0, 2], y), native.batch([4, 0, 2], y)
    assert (a - b).abs().max() < 1e-4
    assert a.std() > 0.05
    with torch.no_grad():
        assert (
            a - of_the_equations(eager, torch.tensor([4, 0, 2]).to(DEVICE), y)
        ).abs().max() < 1e-4


def of_the_equations(g: Generation, samples: Tensor, y: Tensor | None) -> Tensor:
    """By `solve` in float64 coefficients, guidance by its own definition."""

    def noise(step: int) -> Tensor:
        return philox.normal(key(g.seed, "sample"), samples, step + 1, g.shape)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return g.guidance(g.net, x, t, None if y is None else y.to(DEVICE))

    *_, last = solve(predict, g.plan, g.objective, noise(-1), noise, g.clamp)
    return last.x


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_native_in_bf16_is_as_near_as_eager_in_bf16(kind) -> None:
    bf16 = Precision("bfloat16")
    y = labels(kind, 4)
    exact = generation(kind, "dpmpp_2m", Eager()).batch(range(4), y)
    near = [
        psnr(generation(kind, "dpmpp_2m", backend, precision=bf16).batch(range(4), y), exact)
        for backend in (Eager(), Native())
    ]
    assert near[1] > 35
    assert near[0] - 8 < near[1] < 90


@pytest.mark.slow
@pytest.mark.parametrize("regional", [False, True])
def test_compiled_samples_are_the_eager_ones(regional: bool) -> None:
    a = generation("2D", "dpmpp_2m_sde", Eager()).batch(range(3), labels("2D", 3))
    compiled = generation("2D", "dpmpp_2m_sde", Compiled(regional=regional))
    b = compiled.batch(range(3), labels("2D", 3))
    assert (a - b).abs().max() < 1e-4


class Fixed(nn.Module):
    """Takes one batch size."""

    batch = 4

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        assert len(x) == len(t) == self.batch
        return self.net(x, t, y)


def test_a_net_of_one_batch_size_makes_any_number() -> None:
    free = generation("3D", "dpmpp_2m", Eager())
    fixed = Generation(**{**vars(free), "net": Fixed(free.net)})
    steps: list[int] = []
    a = torch.cat(list(free.batches(6, 4)))
    b = torch.cat(list(fixed.batches(6, 4, on_step=steps.append)))
    assert a.shape == b.shape
    assert (a - b).abs().max() < 1e-5
    assert steps == [4] * 50 + [2] * 50


def test_a_second_batch_starts_anew() -> None:
    g = generation("3D", "dpmpp_2m", Native())
    first = g.batch([0, 1])
    g.batch([2, 3])
    assert torch.equal(first, g.batch([0, 1]))


@pytest.mark.parametrize("net", ["unet", "simple2d"])
def test_native_training_has_the_eager_gradients(net: str) -> None:
    nets = []
    for backend in (Eager(), Native()):
        torch.manual_seed(0)
        own = unet("2D").cpu() if net == "unet" else Simple2d((3, 16, 16), 5, Sinusoidal(16))
        keys = list(own.state_dict())
        backend.prepare(own.requires_grad_(True).train())
        assert list(own.state_dict()) == keys
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        own(x, torch.tensor([3, 90]), torch.tensor([1, -1])).square().mean().backward()
        nets.append(own)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert a.grad is not None
        assert (a.grad - b.grad).abs().max() <= 1e-4 * a.grad.abs().max() + 1e-7


@pytest.mark.skipif(DEVICE.type == "cuda", reason="is about a machine without a GPU")
def test_what_cannot_run_says_what_is_missing() -> None:
    with pytest.raises(DdiffError, match="a CUDA graph needs a GPU"):
        generation("3D", "ddim", Eager(graph=True)).batch([0])
    with pytest.raises(DdiffError, match=r"torch-tensorrt .*or torch-tensorrt-rtx"):
        generation("3D", "ddim", TensorRT()).batch([0])
    with pytest.raises(DdiffError, match="cannot train"):
        TensorRT().prepare(unet("3D"))

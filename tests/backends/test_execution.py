"""Every backend makes the same samples: same noise, same plan, same net."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ddiff.backends import Backend, Compiled, Eager, Native, TensorRT, tensorrt
from ddiff.diffusion import solve
from ddiff.kernels import philox, winograd
from ddiff.nets import Simple2d, Sinusoidal
from ddiff.nets.gradients import batched, last_layer
from ddiff.sampling.generation import Generation
from ddiff.system.errors import DdiffError
from ddiff.system.precision import Precision
from ddiff.system.random import key
from tests.support.sampling import DEVICE, PLANS, STEPS, generation, labels, psnr, small_net


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

    y = None if y is None else y.to(DEVICE)
    *_, last = solve(g.net, g.plan, g.objective, noise(-1), noise, g.clamp, y, g.guidance)
    return last.x


@pytest.mark.parametrize("kind", ["2D", pytest.param("3D", marks=pytest.mark.slow)])
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
@pytest.mark.parametrize(("kind", "regional"), [("2D", False), ("3D", True), ("dit", True)])
def test_compiled_samples_are_the_eager_ones(kind: str, regional: bool) -> None:
    a = generation(kind, "dpmpp_2m_sde", Eager()).batch(range(3), labels(kind, 3))
    compiled = generation(kind, "dpmpp_2m_sde", Compiled(regional=regional))
    b = compiled.batch(range(3), labels(kind, 3))
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
    fixed = replace(free, net=Fixed(free.net))
    steps: list[int] = []
    a = torch.cat(list(free.batches(6, 4)))
    b = torch.cat(list(fixed.batches(6, 4, on_step=steps.append)))
    assert a.shape == b.shape
    assert (a - b).abs().max() < 1e-5
    assert steps == [4] * STEPS + [2] * STEPS


def test_a_second_batch_starts_anew() -> None:
    g = generation("3D", "dpmpp_2m", Native())
    first = g.batch([0, 1])
    g.batch([2, 3])
    assert torch.equal(first, g.batch([0, 1]))


def trained(net: str, backend: Backend, precision: Precision) -> list[Tensor]:
    """The gradients of one step."""
    torch.manual_seed(0)
    own = Simple2d((3, 16, 16), 5, Sinusoidal(16)) if net == "simple2d" else small_net(net).cpu()
    keys = list(own.state_dict())
    backend.prepare(own.requires_grad_(True).train())
    assert list(own.state_dict()) == keys
    shape = (1, 16, 16, 16) if net == "3D" else (3, 16, 16)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    y = None if net == "3D" else torch.tensor([1, -1, 0, 2])
    with precision.autocast(x.device):
        out = own(x, torch.tensor([3, 90, 5, 7]), y)
    out.float().square().mean().backward()
    gradients = [p.grad for p in own.parameters() if p.grad is not None]
    assert len(gradients) == len(list(own.parameters()))
    return gradients


@pytest.mark.parametrize("net", ["2D", "3D", "simple2d"])
def test_native_training_has_the_eager_gradients(net: str) -> None:
    fp32 = Precision("float32")
    for a, b in zip(trained(net, Eager(), fp32), trained(net, Native(), fp32), strict=True):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max() + 1e-7


@pytest.mark.parametrize("score", [batched, last_layer])
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_timesteps_score_alike_under_native(kind: str, score: Callable[..., Tensor]) -> None:
    """Gradient norms of a net whose samples carry several candidates' parameters."""
    shape = (1, 16, 16, 16) if kind == "3D" else (3, 16, 16)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([1, -1]) if kind == "2D" else None

    def loss(predict: Callable[..., Tensor], t: Tensor) -> Tensor:
        return predict(x, t.expand(2), y).square().mean()

    found = []
    for backend in (Eager(), Native()):
        own = small_net(kind).cpu().requires_grad_(True)
        backend.prepare(own)
        found.append(score(own, loss, torch.tensor([3, 90, 150]), chunk=3))
    assert found[0].std() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("net", ["2D", "3D"])
def test_native_training_in_bf16_is_nearly_as_exact_as_eager_in_bf16(net: str, monkeypatch) -> None:
    shapes = []

    def gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append((x.dtype, *weight.shape[2:]))
        return torch.ops.ddiff.winograd_gradient(dy, x, weight)

    monkeypatch.setattr(winograd.convolution, "GRADIENT", gradient)
    monkeypatch.setitem(winograd.filters.PROCESSOR, "amx", False)
    bf16 = Precision("bfloat16")
    right, eager, native = (
        torch.cat([g.flatten() for g in trained(net, backend, precision)])
        for backend, precision in (
            (Eager(), Precision("float32")),
            (Eager(), bf16),
            (Native(), bf16),
        )
    )
    errors = [(g - right).norm() / right.norm() for g in (eager, native)]
    assert 0 < errors[1] < 2 * errors[0]
    again = torch.cat([g.flatten() for g in trained(net, Native(), bf16)])
    assert torch.equal(again, native)
    assert shapes.count((torch.bfloat16, *[3] * int(net[0]))) > 5


@pytest.mark.parametrize(
    ("packages", "gpu", "is_refused"),
    [
        ("torch-tensorrt-rtx 2.12", (9, 0), True),  # Hopper
        ("torch-tensorrt-rtx 2.12", (10, 0), True),
        ("torch-tensorrt-rtx 2.12", (7, 5), True),
        ("torch-tensorrt-rtx 2.12", (8, 0), False),
        ("torch-tensorrt-rtx 2.12", (12, 0), False),
        ("torch-tensorrt 2.12", (9, 0), False),
        ("torch-tensorrt 2.12,torch-tensorrt-rtx 2.12", (9, 0), False),
    ],
)
def test_torch_tensorrt_for_rtx_is_refused_where_it_has_nothing(
    packages: str, gpu: tuple[int, int], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "installed", lambda: packages.split(","))
    words = (
        r"^backend=tensorrt: torch-tensorrt-rtx 2\.12 does not run on GPUs of compute capability "
        r"{}\.{}; pip install torch-tensorrt in its place, or choose another backend$".format(*gpu)
    )
    with pytest.raises(DdiffError, match=words) if is_refused else nullcontext():
        tensorrt.check_capability("backend=tensorrt", gpu)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="is about a machine without a GPU")
def test_what_cannot_run_says_what_is_missing() -> None:
    with pytest.raises(DdiffError, match="a CUDA graph needs a GPU"):
        generation("3D", "ddim", Eager(graph=True)).batch([0])
    with pytest.raises(DdiffError, match=r"torch-tensorrt .*or torch-tensorrt-rtx"):
        generation("3D", "ddim", TensorRT()).batch([0])
    with pytest.raises(DdiffError, match="cannot train"):
        TensorRT().prepare(small_net("3D"))

"""Graphs, kernels and engines on a GPU: the samples of every backend, for every solver."""

import time

import pytest
import torch

from ddiff.backends import Compiled, Eager, Native, TensorRT
from ddiff.backends.tensorrt import has_kernels, installed
from ddiff.system.errors import DdiffError
from ddiff.system.precision import Precision
from tests.support.gpu import DRY, emulate, needs_gpu, not_dry
from tests.support.sampling import PLANS, generation, labels, psnr

pytestmark = needs_gpu
GRAPHED = {"eager": Eager(graph=True), "native": Native(), "native, no graph": Native(graph=False)}
needs_tensorrt = pytest.mark.skipif(not installed(), reason="needs Torch-TensorRT")


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> None:
    Precision("float32").prepare()
    if DRY:
        emulate(monkeypatch)


@pytest.mark.parametrize("backend", GRAPHED)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_samples_are_the_eager_ones(kind: str, plan: str, backend: str) -> None:
    if DRY and backend != "eager" and plan not in ("ddim_noisy", "dpmpp_2m_sde"):
        pytest.skip("not in a dry run: the emulation takes seconds a plan, and two have them all")
    y = labels(kind, 3)
    a = generation(kind, plan, Eager()).batch([4, 0, 2], y)
    b = generation(kind, plan, GRAPHED[backend]).batch([4, 0, 2], y)
    assert (a - b).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_half_precision(kind: str, dtype: str) -> None:
    y = labels(kind, 4)
    exact = generation(kind, "dpmpp_2m", Eager()).batch(range(4), y)
    half = generation(kind, "dpmpp_2m", Native(), precision=Precision(dtype)).batch(range(4), y)
    assert psnr(half, exact) > (35 if dtype == "bfloat16" else 50)


def test_a_graph_draws_new_noise_for_new_samples() -> None:
    g = generation("3D", "ddpm", Native())
    first, second = g.batch([0, 1]), g.batch([2, 3])
    assert torch.equal(first, g.batch([0, 1]))
    assert (first - second).abs().mean() > 0.01


@not_dry("its compilation takes minutes, and tests/backends has it on a CPU")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(mode) -> None:
    y = labels("2D", 3)
    a = generation("2D", "ddpm", Eager()).batch(range(3), y)
    b = generation("2D", "ddpm", Compiled(mode=mode)).batch(range(3), y)
    assert (a - b).abs().max() < 1e-4


@needs_tensorrt
@pytest.mark.parametrize(
    ("precision", "least"),
    [
        (Precision("float32"), 70),
        (Precision("float32", tf32=True), 50),
        (Precision("float16"), 45),
        (Precision("bfloat16"), 30),
    ],
    ids=["fp32", "tf32", "fp16", "bf16"],
)
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_tensorrt(kind: str, precision: Precision, least: float, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path))
    y = labels(kind, 4)
    exact = generation(kind, "dpmpp_2m", Eager()).batch(range(4), y)
    if not has_kernels(torch.cuda.get_device_capability()):
        with pytest.raises(DdiffError, match="does not run on GPUs of compute capability"):
            generation(kind, "dpmpp_2m", TensorRT(), precision=precision).batch(range(4), y)
        return
    seconds = []
    for _ in range(2):  # the second reads the engine that the first has kept
        started = time.perf_counter()
        made = generation(kind, "dpmpp_2m", TensorRT(), precision=precision).batch(range(4), y)
        seconds.append(time.perf_counter() - started)
        assert psnr(made, exact) > least
    assert len(list((tmp_path / "tensorrt").glob("*.ep"))) == 1
    assert seconds[1] < seconds[0]

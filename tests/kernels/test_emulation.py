"""The emulation finds what CUDA forbids: faults are planted in the kernels, one at a time."""

from importlib import import_module

import pytest
import torch

from ddiff.backends import Eager, Native
from ddiff.kernels import calling
from ddiff.kernels.group_norm_silu import NORM, NORM_BACKWARD
from ddiff.kernels.measuring import max_error
from ddiff.kernels.solver_step import add_noise, solver_step
from tests.emulation import ORDERS, Emulated, Found, translated
from tests.support import sampling
from tests.support.sampling import generation, labels

PLANTED = {  # the first such piece, what takes its place, what the emulation must say
    "no barrier": ("__syncthreads();", "", "a race in shared memory"),
    "a barrier in a branch": (
        "__syncthreads();",
        "if (threadIdx.x < 32) __syncthreads();",
        "a barrier in line",
    ),
    "half a warp shuffles": (
        "count = warp_sum(count);",
        "if (threadIdx.x % 32 < 16) count = warp_sum(count);",
        "a shuffle that not all of its members reach",
    ),
    "shared memory for one sum of the two": (
        "2 * sizeof(float) * result.cut.down",
        "sizeof(float) * result.cut.down",
        "outside of its",
    ),
    "memory cleared beyond the end of shared memory, by a call that is not watched": (
        "float *means = shared, *m2s = shared + cut.down * s.channels;",
        "float *means = shared, *m2s = shared + cut.down * s.channels;"
        "memset(m2s, 0, sizeof(float) * (cut.down * s.channels + 1));",
        "runs into the page behind its",
    ),
    "a row of shared memory that nobody writes": (
        "if (cut.row() < cut.down) {",
        "if (cut.row() + 1 < cut.down) {",
        "reads shared memory that nobody wrote",
    ),
    "blocks that write each other's chunk": (
        "partial[blockIdx.x * s.groups + g]",
        "partial[blockIdx.x / 2 * s.groups + g]",
        "a race in global memory",
    ),
    "wide loads at any address": (
        "addresses % 16 == 0",
        "true",
        "an address that is no multiple of 16",
    ),
}


def norm(gpu: Emulated, monkeypatch: pytest.MonkeyPatch, shift: int = 0) -> None:
    """Forward and backward of a map in several blocks, `shift` values off its alignment."""
    monkeypatch.setattr(calling, "gpu_of", lambda like: gpu)
    batch, channels, side = 2, 32, 24
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(shift + batch * channels * side**2, generator=generator)[shift:]
    x = flat.view(batch, side, side, channels).permute(0, 3, 1, 2)
    weight, bias = torch.rand(2, channels, generator=generator)
    _, mean, rstd = NORM(x, weight, bias, None, None, 8, True, 1e-5)
    NORM_BACKWARD(x, x, mean, rstd, weight, bias, None, None, 8, True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, words = PLANTED[name]
    with pytest.raises(Found, match=words):
        norm(Emulated(order, planted=((good, bad),)), monkeypatch, shift=1)


UNALIGNED = (  # without these conditions wide loads take any address, when sizes allow them
    (
        """ && aligned(a.x, 16) && aligned(a.pred, 4 * sizeof(T)) &&
                      aligned(a.x_0, 16) && aligned(a.x_0_before, 16)""",
        "",
    ),
    (" && aligned(x_0, 16)", ""),
)


@pytest.mark.parametrize(
    "shifted", ["nothing", "x", "pred", "x_0", "x_0_before", "x_0 of add_noise"]
)
def test_every_condition_on_alignment_is_needed(
    shifted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One build without any: where one tensor alone is shifted, the other conditions hold."""
    monkeypatch.setattr(calling, "gpu_of", lambda like: gpu)
    gpu, samples, step = Emulated(planted=UNALIGNED), torch.arange(2), torch.tensor(0)

    def tensor(name: str) -> torch.Tensor:
        by = int(name == shifted)
        return torch.ones(by + 16)[by:].view(2, 8)

    def run() -> None:
        x, pred, x_0, before = map(tensor, ("x", "pred", "x_0", "x_0_before"))
        solver_step(x, pred, x_0, torch.ones(1, 8), step, samples, 0, None, True, before)
        add_noise(tensor("x_0 of add_noise"), torch.ones(2, 4), samples, 0, 1)

    if shifted == "nothing":
        run()
        assert gpu.launches >= 2
    else:
        with pytest.raises(Found, match="an address that is no multiple of 16"):
            run()


def test_an_output_that_nobody_writes_stays_not_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deterministic mode fills new tensors, so a kernel's test sees what it left unwritten."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    fault = ("rstd[b * s.groups + g] = inverse;", "")
    for planted in ((), (fault,)):
        gpu = Emulated(planted=planted)
        monkeypatch.setattr(calling, "gpu_of", lambda like, gpu=gpu: gpu)
        torch.use_deterministic_algorithms(True)
        x, ones = torch.ones(1, 8, 4, 4), torch.ones(8)
        _, mean, rstd = NORM(x, ones, ones, None, None, 4, True, 1e-5)
        torch.use_deterministic_algorithms(False)
        assert mean.isfinite().all()
        assert (rstd.isnan() if planted else rstd.isfinite()).all()


def test_the_kernels_as_they_are_do_nothing_that_is_forbidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Emulated()
    for shift in (0, 1):
        norm(gpu, monkeypatch, shift)
    assert gpu.launches > 0


def small(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape whose sides are an eighth, of two samples at most; channels stay."""
    sides = 3 if shape[-1] == shape[-3] else 2
    *first, channels = shape[:-sides]
    return (*(min(2, n) for n in first), channels, *(max(2, n // 8) for n in shape[-sides:]))


@pytest.mark.parametrize("name", ["group_norm_silu", "philox", "solver_step"])
def test_the_cases_of_a_gpu_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases of `python -m ddiff.kernels --device cuda --check`, with small shapes."""
    gpu, module = Emulated(), import_module(f"ddiff.kernels.{name}.cases")
    monkeypatch.setattr(calling, "gpu_of", lambda like: gpu)
    for constant in {"SHAPES", "VOXELS", "IMAGE", "LARGE", "SMALL"} & set(vars(module)):
        value = getattr(module, constant)
        made = [(small(s), g) for s, g in value] if constant == "SHAPES" else small(value)
        monkeypatch.setattr(module, constant, made)
    gpu.library(name)
    for case in module.cases("cpu"):
        before = gpu.launches
        assert max_error(case) <= case.tolerance, case.name
        assert gpu.launches > before, case.name


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_whole_samples_are_the_eager_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "STEPS", 3)
    y = labels(kind, 3)
    expected = generation(kind, "dpmpp_2m_sde", Eager()).batch([4, 0, 2], y)
    gpu = Emulated()
    monkeypatch.setattr(calling, "gpu_of", lambda like: gpu)
    found = generation(kind, "dpmpp_2m_sde", Native(graph=False)).batch([4, 0, 2], y)
    assert (found - expected).abs().max() < 1e-4
    assert set(gpu.libraries) == {"group_norm_silu", "solver_step"}


def test_a_launch_that_cuda_refuses_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Emulated(planted=(("grid_for(a.batch, a.size), THREADS", "dim3(0), THREADS"),))
    monkeypatch.setattr(calling, "gpu_of", lambda like: gpu)
    x, step = torch.zeros(1, 4), torch.zeros((), dtype=torch.int64)
    with pytest.raises(calling.KernelError, match=r"invalid configuration argument .*error 9"):
        solver_step(x, x, None, torch.zeros(1, 8), step, step[None], 0, None, False)


def test_a_toolkit_newer_than_the_driver_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Emulated(planted=(("return cudaGetLastError();", "return 35;"),))
    monkeypatch.setattr(calling, "gpu_of", lambda like: gpu)
    x, step = torch.zeros(1, 4), torch.zeros((), dtype=torch.int64)
    with pytest.raises(calling.KernelError, match=r"newer than the driver: .*error 35\)"):
        solver_step(x, x, None, torch.zeros(1, 8), step, step[None], 0, None, False)


def test_launches_are_translated() -> None:
    assert translated("scale<T, 4><<<dim3(2, 3), N, 0, s>>>(x, f(y));") == (
        '::emulation::launch("scale<T, 4>", scale<T, 4>, dim3(2, 3), N, 0, s)(x, f(y));'
    )
    assert translated("extern __shared__ float sums[];") == (
        "float* sums = ::emulation::shared<float>();"
    )

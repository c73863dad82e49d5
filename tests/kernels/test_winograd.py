"""Convolution by Winograd's minimal filtering against float64 convolutions of its own inputs."""

import ctypes
import subprocess

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddiff.kernels.building import ROOT
from ddiff.kernels.winograd import conv, convolution, pack, pays, reference
from ddiff.kernels.winograd.convolution import GRADIENT, PLAIN
from ddiff.kernels.winograd.filters import PROCESSOR, matrices, rounded
from ddiff.system.errors import KernelError

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# Root mean square error over that of the output: twice what was measured, at 8 to 40 inputs.
FP32 = 2e-6
# Over the error of the convolution with the same inputs and weights rounded to bfloat16.
BF16_RATIO = 4.6
SIZES = [(1, 1), (2, 3), (4, 4), (5, 9), (7, 6), (1, 3, 5), (2, 4, 4), (17, 5, 7), (3, 1, 10)]


def drawn(batch: int, inputs: int, outputs: int, space: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x, weight and bias, the output of order 1."""
    x = torch.randn(batch, inputs, *space).contiguous(memory_format=CHANNELS_LAST[len(space) + 2])
    weight = torch.randn(outputs, inputs, *[3] * len(space)) / (inputs * 3 ** len(space)) ** 0.5
    return x, weight, torch.randn(outputs)


def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    direct = F.conv2d if x.ndim == 4 else F.conv3d
    return direct(x.double(), weight.double(), bias.double(), padding=1)


def error(y: Tensor, truth: Tensor) -> float:
    return ((y - truth).square().mean() / truth.square().mean()).sqrt().item()


@pytest.mark.parametrize("space", SIZES)
def test_float32_is_the_convolution(space):
    x, weight, bias = drawn(2, 21, 37, space)
    y = conv(x, pack(weight, torch.float32), bias)
    assert y.dtype == torch.float32
    assert y.is_contiguous(memory_format=CHANNELS_LAST[x.ndim])
    assert error(y, exact(x, weight, bias)) < FP32


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 16), (16, 3), (33, 80), (40, 130)])
def test_any_number_of_channels(inputs, outputs):
    x, weight, bias = drawn(1, inputs, outputs, (6, 5))
    truth = exact(x, weight, bias)
    assert error(conv(x, pack(weight, torch.float32), bias), truth) < FP32
    y = conv(x.bfloat16(), pack(weight, torch.bfloat16), bias)
    assert error(y, exact(x.bfloat16(), weight, bias)) < 0.025


@pytest.mark.parametrize("space", [(16, 13), (6, 7, 9)])
@pytest.mark.parametrize("silu", [False, True], ids=["normal", "silu"])
def test_bfloat16_keeps_its_bound(space, silu):
    x, weight, _ = drawn(2, 64, 48, space)
    x, bias = (F.silu(x) if silu else x).bfloat16(), torch.zeros(48)
    y, truth = conv(x, pack(weight, torch.bfloat16), bias), exact(x, weight, bias)
    assert y.dtype == torch.bfloat16
    direct = exact(x, weight.bfloat16(), bias).bfloat16()
    assert error(y, truth) < BF16_RATIO * error(direct, truth)


@pytest.mark.parametrize("space", [(9, 6), (3, 5, 4)])
def test_it_is_its_torch_reference(space):
    x, weight, bias = drawn(2, 35, 20, space)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.04)):
        packed = pack(weight, dtype)
        y, expected = (f(x.to(dtype), packed, bias) for f in (conv, reference.conv))
        assert y.stride() == expected.stride()
        assert (y - expected).abs().max() < tolerance


def test_more_threads_and_larger_batches_change_no_bit():
    x, weight, bias = drawn(5, 64, 96, (12, 10))
    packed, threads = pack(weight, torch.bfloat16), torch.get_num_threads()
    whole = conv(x.bfloat16(), packed, bias)
    try:
        torch.set_num_threads(3)
        assert torch.equal(conv(x.bfloat16(), packed, bias), whole)
        assert torch.equal(conv(x[2:3].bfloat16(), packed, bias), whole[2:3])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_value_is_written_and_none_beside(dtype, monkeypatch):
    x, weight, bias = drawn(2, 20, 19, (5, 6))
    room = torch.full((2 * 5 * 6 * 19 + 128,), torch.nan, dtype=dtype)
    y = room[64:-64].view(2, 5, 6, 19).permute(0, 3, 1, 2)
    monkeypatch.setattr(convolution, "_packed_empty", lambda *_: y)
    conv(x.to(dtype), pack(weight, dtype), bias)
    assert not y.isnan().any()
    assert room[:64].isnan().all()
    assert room[-64:].isnan().all()


def test_scratch_memory_of_earlier_calls_does_not_matter():
    x, weight, bias = drawn(1, 24, 32, (3, 8, 8))
    packed = pack(weight, torch.float32)
    before = conv(x, packed, bias)
    conv(torch.full((1, 24, 9, 16, 16), torch.nan), packed, bias)
    assert torch.equal(conv(x, packed, bias), before)


def test_any_strides_do():
    x, weight, bias = drawn(2, 16, 16, (6, 6))
    packed, truth = pack(weight, torch.float32), exact(x, weight, bias)
    assert error(conv(x.contiguous(), packed, bias), truth) < 2e-6
    wide = torch.randn(2, 32, 6, 12)
    wide[:, ::2, :, ::2] = x
    assert error(conv(wide[:, ::2, :, ::2], packed, bias), truth) < 2e-6


@pytest.mark.parametrize("space", [(1, 1), (5, 6), (1, 2, 2), (3, 5, 4), (17, 2, 3)])
def test_upsampling_weights_convolve_repeated_values(space):
    x, weight, bias = drawn(2, 19, 37, space)
    large = F.interpolate(x, scale_factor=2.0, mode="nearest")
    packed = pack(weight, torch.float32, upsample=True)
    y, truth = conv(x, packed, bias), exact(large, weight, bias)
    assert error(y, truth) < FP32
    assert error(reference.conv(x, packed, bias), truth) < FP32
    packed, x = pack(weight, torch.bfloat16, upsample=True), x.bfloat16()
    assert (conv(x, packed, bias) - reference.conv(x, packed, bias)).abs().max() < 0.04
    assert error(conv(x, packed, bias), exact(large.bfloat16(), weight, bias)) < 0.02


def test_matrices_filter_three_taps():
    A, G, B = matrices()
    d, w = torch.randn(6).double(), torch.randn(3).double()
    assert torch.allclose(A.T @ ((G @ w) * (B @ d)), d.unfold(0, 3, 1) @ w)


def test_rounding_with_regard_to_the_output_beats_rounding_to_nearest():
    A, _, B = matrices()
    H = torch.kron((A @ A.T) * (B @ B.T), (A @ A.T) * (B @ B.T)).float()
    points = torch.randn(2000, 36)
    chosen = rounded(points, H.double())
    assert torch.equal(chosen, chosen.bfloat16().float())
    lost = [((q - points) @ H * (q - points)).sum() for q in (chosen, points.bfloat16().float())]
    assert lost[0] < 0.6 * lost[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compilers_see_through_it(dtype):
    x, weight, bias = drawn(2, 16, 20, (5, 6))
    packed, x = pack(weight, dtype), x.to(dtype)
    for weights in (packed, pack(weight, dtype, upsample=True)):
        torch.library.opcheck(torch.ops.ddiff.winograd.default, (x, weights, bias))

    def net(x: Tensor) -> Tensor:
        return F.silu(conv(x, packed, bias)) + 1

    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), net(x))


def test_mistakes_are_named():
    x, weight, bias = drawn(2, 16, 20, (5, 6))
    packed = pack(weight, torch.float32)
    for call, words in [
        (lambda: pack(weight[..., :2], torch.float32), "3 x 3"),
        (lambda: pack(weight, torch.float16), "float16"),
        (lambda: conv(x.bfloat16(), packed, bias), "packed for torch.float32"),
        (lambda: conv(x[:, :15], packed, bias), "15 channels, and the weight takes 16"),
        (lambda: conv(x[:, :, None], packed, bias), "5 axes"),
        (lambda: conv(x, packed, bias[:16]), r"bias of \[16\]"),
        (lambda: conv(x, weight, bias), "does not come from pack"),
        (lambda: conv(x.requires_grad_(), packed, bias).sum().backward(), "no backward"),
    ]:
        with pytest.raises(KernelError, match=words):
            call()


def test_where_it_pays(monkeypatch):
    for name, has in (("avx2", True), ("amx", False)):
        monkeypatch.setitem(PROCESSOR, name, has)
    for dtype in (torch.float32, torch.bfloat16):
        assert pays((128, 64, 3, 3), (32, 32), dtype)
        assert pays((64, 32, 3, 3, 3), (2, 4, 4), dtype)
        assert not pays((128, 64, 1, 1), (32, 32), dtype)  # not a kernel of 3
        assert not pays((128, 3, 3, 3), (32, 32), dtype)  # few channels
        assert not pays((128, 64, 3, 3), (5, 5), dtype)  # tiles mostly outside the image
    assert not pays((128, 64, 3, 3), (32, 32), torch.float16)
    monkeypatch.setitem(PROCESSOR, "amx", True)
    assert not pays((128, 64, 3, 3), (32, 32), torch.bfloat16)
    assert pays((128, 64, 3, 3), (32, 32), torch.float32)


def test_it_is_right_on_processors_with_nothing(tmp_path, monkeypatch):
    """Compiled for the compiler's oldest processor: the portable loops."""
    source = ROOT / "winograd" / "winograd.cpp"
    flags = ["-O1", "-std=c++17", "-fopenmp", "-fPIC", "-Wall", "-Wextra", "-Werror", "-c"]
    subprocess.run(["g++", *flags, source, "-o", tmp_path / "w.o"], check=True)
    subprocess.run(["g++", "-shared", tmp_path / "w.o", "-o", tmp_path / "w.so"], check=True)
    monkeypatch.setattr(convolution, "load", lambda *_: ctypes.CDLL(str(tmp_path / "w.so")))
    x, weight, bias = drawn(2, 33, 40, (5, 9))
    monkeypatch.setattr(convolution, "PACKED", {torch.float32: 1, torch.bfloat16: 1})
    for dtype, tolerance in ((torch.float32, 2e-4), (torch.bfloat16, 0.3)):  # dw is of order 10
        maps, dy = x.to(dtype), torch.randn(2, 40, 5, 9).to(dtype)
        back = dy, weight, torch.ones(33), True
        made = PLAIN(*back), *GRADIENT(dy, maps, weight)
        right = reference.plain(*back), *reference.gradient(dy, maps, weight)
        for a, b in zip(made, right, strict=True):
            assert (a - b).abs().max() < tolerance
    assert error(conv(x, pack(weight, torch.float32), bias), exact(x, weight, bias)) < 2e-6
    packed, x = pack(weight, torch.bfloat16), x.bfloat16()
    assert (conv(x, packed, bias) - reference.conv(x, packed, bias)).abs().max() < 0.04

"""The weights' gradient by tiles against float64 sums of the same bfloat16 numbers."""

import ctypes
import subprocess

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ddiff.errors import KernelError
from ddiff.kernels import tile_gradient
from ddiff.kernels.building import ROOT
from ddiff.kernels.tile_gradient import CONV, GRADIENT, conv, trains
from tests.kernels.test_winograd import CHANNELS_LAST, drawn, error
from tests.kernels.test_winograd_training import like, truth

# batch, inputs, outputs, space: odd numbers, one line, one column, several panels, whole tiles
SHAPES = [
    (2, 16, 16, (1, 1)),
    (1, 3, 5, (4, 6)),
    (3, 20, 40, (5, 7)),
    (2, 33, 17, (9, 1)),
    (5, 32, 32, (1, 9)),
    (16, 64, 48, (8, 8)),
    (4, 48, 96, (70, 33)),
    (2, 21, 37, (1, 3, 5)),
    (3, 16, 33, (4, 1, 2)),
    (2, 40, 24, (17, 9, 10)),
    (5, 33, 17, (3, 4, 6)),
]


def operands(
    batch: int, inputs: int, outputs: int, space: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, dy; the maps in bfloat16."""
    x, weight, bias = drawn(batch, inputs, outputs, space)
    return x.bfloat16(), weight, bias, like(x, outputs).bfloat16()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_gradient(shape):
    x, weight, bias, dy = operands(*shape)
    dw, db = GRADIENT(dy, x, weight)
    right = truth(x, weight, bias, dy)
    assert dw.dtype == db.dtype == torch.float32
    assert dw.stride() == weight.stride()
    assert error(dw, right["dw"]) < 2e-6
    assert (db - right["db"]).abs().max() < 1e-5 * dy.double().abs().sum()


def test_weights_of_any_strides():
    x, weight, bias, dy = operands(3, 24, 40, (6, 5))
    right = truth(x, weight, bias, dy)["dw"]
    for value in (
        weight.contiguous(memory_format=torch.channels_last),
        weight.transpose(0, 1).contiguous().transpose(0, 1),
        weight.transpose(0, -1).contiguous().transpose(0, -1),
    ):
        dw, _ = GRADIENT(dy, x, value)
        assert dw.stride() == value.stride()
        assert error(dw, right) < 2e-6


def test_maps_of_any_strides():
    x, weight, bias, _ = operands(2, 16, 16, (6, 6))
    wide = torch.randn(2, 32, 6, 12).bfloat16()
    wide[:, ::2, :, ::2] = x
    dy = torch.randn(1, 16, 1, 1).bfloat16().expand(2, 16, 6, 6)
    dw, _ = GRADIENT(dy, wide[:, ::2, :, ::2], weight)
    assert error(dw, truth(x, weight, bias, dy)["dw"]) < 2e-6


def test_more_threads_change_no_bit():
    x, weight, _, dy = operands(5, 64, 96, (12, 10))
    one, threads = GRADIENT(dy, x, weight), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            assert all(map(torch.equal, GRADIENT(dy, x, weight), one))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("space", [(5, 6), (3, 5, 6)])
def test_every_value_is_written_and_none_beside(space, monkeypatch):
    rooms = []

    def within(shape: tuple[int, ...]) -> Tensor:
        rooms.append(torch.full((torch.Size(shape).numel() + 128,), torch.nan))
        return rooms[-1][64:-64].view(shape)

    def empty(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return within(weight.shape), within((19,))

    x, weight, _, dy = operands(3, 21, 19, space)
    monkeypatch.setattr(tile_gradient, "_fake_gradient", empty)
    GRADIENT(dy, x, weight)
    assert len(rooms) == 2
    for room in rooms:
        assert not room[64:-64].isnan().any()
        assert room[:64].isnan().all()
        assert room[-64:].isnan().all()


def test_memory_of_earlier_calls_does_not_matter():
    x, weight, _, dy = operands(3, 24, 40, (3, 6, 6))
    before = GRADIENT(dy, x, weight)
    large = [torch.full((3, 48, 9, 16, 16), torch.nan).bfloat16() for _ in range(2)]
    assert GRADIENT(*large, torch.empty(48, 48, 3, 3, 3))[0].isnan().all()
    assert all(map(torch.equal, GRADIENT(dy, x, weight), before))


def test_other_products_by_tiles_go_on_afterwards():
    """oneDNN sets up the same registers, each thread its own."""
    a = torch.randn(64, 256).bfloat16()
    x, weight, _, dy = operands(2, 32, 32, (8, 8))
    plain = weight.bfloat16()
    before = a @ a.mT, F.conv2d(x, plain, padding=1)
    GRADIENT(dy, x, weight)
    assert all(map(torch.equal, (a @ a.mT, F.conv2d(x, plain, padding=1)), before))


def test_it_is_right_on_processors_without_tiles(tmp_path, monkeypatch):
    source = ROOT / "tile_gradient" / "tile_gradient.cpp"
    flags = ["-O1", "-std=c++17", "-fopenmp", "-fPIC", "-Wall", "-Wextra", "-Werror", "-c"]
    subprocess.run(["g++", *flags, source, "-o", tmp_path / "t.o"], check=True)
    subprocess.run(["g++", "-shared", tmp_path / "t.o", "-o", tmp_path / "t.so"], check=True)
    library = ctypes.CDLL(str(tmp_path / "t.so"))
    monkeypatch.setattr(tile_gradient, "_library", lambda: library)
    assert not library.ddiff_has_tiles()
    for shape in SHAPES[2:5] + SHAPES[-1:]:
        x, weight, bias, dy = operands(*shape)
        assert error(GRADIENT(dy, x, weight)[0], truth(x, weight, bias, dy)["dw"]) < 2e-6


@pytest.mark.parametrize("space", [(8, 12), (4, 4, 8)])
def test_a_training_step_is_torch_s(space):
    """Under autocast: the output and the inputs' gradient to the bit, the weights' nearer to the
    truth than torch's, which is rounded to bfloat16."""
    x, weight, bias = drawn(2, 40, 32, space)
    plain = F.conv2d if x.ndim == 4 else F.conv3d
    found = {}
    for name, by in {"tiles": conv, "torch": lambda *a: plain(*a, padding=1)}.items():
        leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
        with torch.autocast("cpu", torch.bfloat16):
            y = by(*leaves)
        y.backward(torch.ones_like(y))
        found[name] = y.detach(), *(leaf.grad for leaf in leaves)
    assert torch.equal(found["tiles"][0], found["torch"][0])
    assert torch.equal(found["tiles"][1], found["torch"][1])
    right = truth(x.bfloat16(), weight, bias, torch.ones_like(found["torch"][0]).float())
    ours, theirs = (error(found[name][2], right["dw"]) for name in ("tiles", "torch"))
    assert ours < 2e-6 < theirs < 4e-3
    assert error(found["tiles"][3], right["db"]) < 1e-6


def test_only_the_gradients_that_are_asked_for(monkeypatch):
    x, weight, bias, dy = operands(2, 32, 64, (4, 4))
    monkeypatch.setattr(tile_gradient, "GRADIENT", lambda *_: pytest.fail("not asked for"))
    conv(x.requires_grad_(), weight, None).backward(dy)
    right = truth(x.detach(), weight.bfloat16(), bias, dy)["dx"]
    assert x.grad is not None
    assert error(x.grad, right) < 4e-3


def test_compilers_and_fake_tensors_see_through_it():
    x, weight, bias, dy = operands(2, 32, 48, (8, 8))
    leaves = [value.requires_grad_() for value in (x, weight, bias)]
    torch.library.opcheck(CONV, tuple(leaves))
    torch.library.opcheck(GRADIENT, (dy, x.detach(), weight.detach()))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(value) for value in leaves]
        y = conv(*fakes)
        made = torch.autograd.grad(y.sum(), fakes)
    assert y.stride() == conv(*leaves).stride()
    assert [m.stride() for m in made] == [leaf.stride() for leaf in leaves]


def test_where_it_trains(monkeypatch):
    class Library:
        def ddiff_has_tiles(self) -> bool:
            return True

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(tile_gradient, "_library", Library)
    weight, x = torch.empty(64, 48, 3, 3), torch.empty(8, 48, 8, 8)
    assert not trains(x, weight)  # float32
    assert trains(x.bfloat16(), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert trains(x, weight)
        assert trains(torch.empty(8, 48, 4, 4, 4), torch.empty(64, 48, 3, 3, 3))
        assert not trains(x[:1], weight)  # a pair of one
        assert not trains(x, torch.empty(64, 48, 1, 1))
        assert not trains(torch.empty(8, 32, 8, 8), torch.empty(32, 32, 3, 3))  # torch is faster
        assert not trains(torch.empty(8, 3, 8, 8), torch.empty(1024, 3, 3, 3))
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert not trains(x, weight)


def test_mistakes_are_named():
    x, weight, bias, dy = operands(2, 16, 20, (5, 6))
    for call, words in [
        (lambda: CONV(x.float(), weight, bias), "x is torch.float32"),
        (lambda: CONV(x[:, :15], weight, bias), r"x is \[2, 15, 5, 6\], the weight \[20, 16"),
        (lambda: CONV(x, weight[..., :1], bias), r"\[20, 16, 3, 1\]"),
        (lambda: GRADIENT(dy[:1], x, weight), r"dy is \[1, 20, 5, 6\]"),
    ]:
        with pytest.raises(KernelError, match=words):
            call()


def test_no_samples_no_gradient():
    x, weight, _, dy = operands(2, 16, 20, (5, 6))
    assert not any(value.any() for value in GRADIENT(dy[:0], x[:0], weight))
    assert x.is_contiguous(memory_format=CHANNELS_LAST[4])

"""Winograd's convolution and its gradients against float64 convolutions of their own inputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from ddiff.kernels.winograd import convolution, trained_conv, trains
from ddiff.kernels.winograd.convolution import GRADIENT, PLAIN
from ddiff.kernels.winograd.filters import PROCESSOR
from ddiff.system.errors import KernelError
from tests.kernels.test_winograd import CHANNELS_LAST, FP32, SIZES, drawn, error, exact

# Root mean square error over that of each result: twice what was measured.
BF16 = 0.027


@pytest.fixture(autouse=True)
def _winograd_at_any_size(monkeypatch) -> None:
    monkeypatch.setattr(convolution, "PACKED", {torch.float32: 1, torch.bfloat16: 1})


def passes(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> dict[str, Tensor]:
    dw, db = GRADIENT(dy, x, weight)
    dx = PLAIN(dy, weight, x.new_zeros(x.shape[1]), True)
    return {"y": PLAIN(x, weight, bias, False), "dx": dx, "dw": dw, "db": db}


def truth(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> dict[str, Tensor]:
    leaves = [value.double().requires_grad_() for value in (x, weight, bias)]
    y = exact(*leaves)
    dx, dw, db = torch.autograd.grad(y, leaves, dy.double())
    return {"y": y.detach(), "dx": dx, "dw": dw, "db": db}


def like(x: Tensor, channels: int) -> Tensor:
    dy = torch.randn(len(x), channels, *x.shape[2:]).to(x.dtype)
    return dy.contiguous(memory_format=CHANNELS_LAST[x.ndim])


@pytest.mark.parametrize("space", SIZES)
def test_all_passes_are_the_convolution_s(space):
    x, weight, bias = drawn(3, 21, 37, space)
    dy = like(x, 37)
    made, right = passes(x, weight, bias, dy), truth(x, weight, bias, dy)
    for name, value in made.items():
        assert value.dtype == torch.float32
        assert error(value, right[name]) < 1.5 * FP32, name
    x, dy = x.bfloat16(), dy.bfloat16()
    made, right = passes(x, weight, bias, dy), truth(x, weight, bias, dy)
    assert made["y"].dtype == made["dx"].dtype == torch.bfloat16
    assert made["dw"].dtype == made["db"].dtype == torch.float32
    assert error(made.pop("db"), right["db"]) < 1e-6
    for name, value in made.items():
        assert error(value, right[name]) < BF16, name


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 16), (16, 3), (33, 80), (70, 130)])
@pytest.mark.parametrize("space", [(6, 5), (3, 4, 4)])
def test_any_number_of_channels_and_weights_of_any_strides(inputs, outputs, space):
    x, weight, bias = drawn(2, inputs, outputs, space)
    dy = like(x, outputs)
    right = truth(x, weight, bias, dy)
    layouts = (
        weight,
        weight.contiguous(memory_format=CHANNELS_LAST[x.ndim]),
        weight.transpose(0, 1).contiguous().transpose(0, 1),
        weight.transpose(0, -1).contiguous().transpose(0, -1),
    )
    for value in layouts:
        made = passes(x, value, bias, dy)
        assert made["dw"].stride() == value.stride()
        assert (made.pop("db") - right["db"]).abs().max() < 1e-4  # sums of up to 96 numbers
        assert all(error(made[name], right[name]) < 3e-6 for name in made)


def test_several_panels_of_tiles_make_one_sum():
    x, weight, bias = drawn(3, 16, 16, (130, 126))
    dy = like(x, 16)
    made, right = passes(x, weight, bias, dy), truth(x, weight, bias, dy)
    assert all(error(made[name], right[name]) < 5e-6 for name in made)


def test_more_threads_change_no_bit():
    x, weight, bias = drawn(5, 64, 96, (12, 10))
    x, dy = x.bfloat16(), like(x, 96).bfloat16()
    one, threads = passes(x, weight, bias, dy), torch.get_num_threads()
    try:
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            many = passes(x, weight, bias, dy)
            assert all(torch.equal(many[name], one[name]) for name in one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_value_is_written_and_none_beside(dtype, monkeypatch):
    rooms = []

    def within(shape: torch.Size, dtype: torch.dtype, order: tuple[int, ...]) -> Tensor:
        rooms.append(torch.full((shape.numel() + 128,), torch.nan, dtype=dtype))
        return rooms[-1][64:-64].view(shape).permute(order)

    def forward(x: Tensor, weight: Tensor, _: Tensor, transposed: bool) -> Tensor:
        return within(torch.Size((2, 5, 6, weight.shape[int(transposed)])), dtype, (0, 3, 1, 2))

    def gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        dw = within(weight.permute(0, 2, 3, 1).shape, torch.float32, (0, 3, 1, 2))
        return dw, within(torch.Size((19,)), torch.float32, (0,))

    monkeypatch.setattr(convolution, "_plain_empty", forward)
    monkeypatch.setattr(convolution, "_gradient_empty", gradient)
    x, weight, bias = drawn(2, 21, 19, (5, 6))
    passes(x.to(dtype), weight, bias, like(x, 19).to(dtype))
    assert len(rooms) == 4
    for room in rooms:
        assert not room[64:-64].isnan().any()
        assert room[:64].isnan().all()
        assert room[-64:].isnan().all()


def test_memory_of_earlier_calls_does_not_matter():
    x, weight, bias = drawn(2, 24, 40, (3, 6, 6))
    dy = like(x, 40)
    before = passes(x, weight, bias, dy)
    large = [torch.full((1, 48, 9, 16, 16), torch.nan) for _ in range(2)]
    passes(large[0], torch.full((48, 48, 3, 3, 3), torch.nan), torch.zeros(48), large[1])
    after = passes(x, weight, bias, dy)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_any_strides_of_maps_do():
    x, weight, bias = drawn(2, 16, 16, (6, 6))
    wide = torch.randn(2, 32, 6, 12)
    wide[:, ::2, :, ::2] = x
    dy = torch.randn(1, 16, 1, 1).expand(2, 16, 6, 6)
    made = passes(wide[:, ::2, :, ::2], weight, bias, dy)
    right = truth(x, weight, bias, dy)
    assert all(error(made[name], right[name]) < 3e-6 for name in made)


@pytest.mark.parametrize("space", [(8, 12), (4, 4, 8)])
@pytest.mark.parametrize("autocast", [False, True])
def test_autograd_and_checkpointing(space, autocast, monkeypatch):
    monkeypatch.setitem(PROCESSOR, "amx", False)
    x, weight, bias = drawn(2, 40, 32, space)
    plain = F.conv2d if x.ndim == 4 else F.conv3d
    conv = {
        "torch": lambda x, *rest: plain(x, *rest, padding=1),
        "winograd": trained_conv,
        "again": lambda *args: checkpoint(trained_conv, *args, use_reentrant=False),
    }
    gradients = {}
    for name, function in conv.items():
        leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = function(*leaves)
        assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
        gradients[name] = torch.autograd.grad(y.float().square().sum(), leaves)
        assert all(g.dtype == torch.float32 for g in gradients[name])
    for ours, again, theirs in zip(
        *map(gradients.get, ("winograd", "again", "torch")), strict=True
    ):
        assert torch.equal(ours, again)
        assert 0 < error(ours, theirs.double()) < (0.03 if autocast else 3e-6)


def test_only_the_gradients_that_are_asked_for(monkeypatch):
    x, weight, bias = drawn(8, 32, 32, (4, 4))
    assert not trained_conv(x, weight, bias).requires_grad
    calls = []
    monkeypatch.setattr(convolution, "GRADIENT", lambda *args: calls.append(args))
    x.requires_grad_()
    (dx,) = torch.autograd.grad(trained_conv(x, weight, None).sum(), x)
    assert error(dx, truth(x, weight, bias, torch.ones(8, 32, 4, 4))["dx"]) < 3e-6
    assert not calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compilers_and_fake_tensors_see_through_it(dtype, monkeypatch):
    monkeypatch.setitem(PROCESSOR, "amx", False)
    x, weight, bias = drawn(8, 32, 48, (8, 8))
    x = x.to(dtype)
    leaves = [value.requires_grad_() for value in (x, weight, bias)]
    torch.library.opcheck(PLAIN, (*leaves, False))
    torch.library.opcheck(GRADIENT, (like(x, 48), x.detach(), weight.detach()))
    compiled = torch.compile(trained_conv, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*leaves), trained_conv(*leaves))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(value) for value in leaves]
        y = trained_conv(*fakes)
        made = torch.autograd.grad(y.sum(), fakes)
    assert y.stride() == trained_conv(*leaves).stride()
    assert [m.stride() for m in made] == [leaf.stride() for leaf in leaves]


@pytest.mark.parametrize("space", [(4, 4), (2, 3, 4)])
def test_a_few_tiles_go_directly(space, monkeypatch):
    monkeypatch.setattr(convolution, "PACKED", {torch.float32: 9, torch.bfloat16: 9})
    monkeypatch.setattr(convolution, "_call", lambda *_: pytest.fail("by Winograd's algorithm"))
    x, weight, bias = drawn(2, 40, 33, space)
    dy = like(x, 33)
    y, dx = PLAIN(x, weight, bias, False), PLAIN(dy, weight, torch.zeros(40), True)
    right = truth(x, weight, bias, dy)
    assert error(y, right["y"]) < 1e-6
    assert error(dx, right["dx"]) < 1e-6
    assert all(m.is_contiguous(memory_format=CHANNELS_LAST[x.ndim]) for m in (y, dx))


def test_where_it_pays_in_training(monkeypatch):
    monkeypatch.setitem(PROCESSOR, "avx2", True)
    monkeypatch.setitem(PROCESSOR, "amx", True)
    weight = torch.empty(64, 64, 3, 3)
    assert trains(torch.empty(8, 64, 4, 4), weight)
    assert trains(torch.empty(1, 64, 8, 16), weight)
    assert not trains(torch.empty(7, 64, 4, 4), weight)  # fewer tiles than the packing costs
    assert not trains(torch.empty(8, 64, 4, 4, device="meta"), weight)
    volume = torch.empty(2, 64, 4, 4, 4)
    assert trains(volume, torch.empty(64, 64, 3, 3, 3))
    assert not trains(volume, torch.empty(64, 8, 3, 3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert not trains(volume, torch.empty(64, 64, 3, 3, 3))  # AMX is faster


def test_mistakes_are_named():
    x, weight, bias = drawn(2, 16, 20, (5, 6))
    for call, words in [
        (lambda: PLAIN(x, weight.bfloat16(), bias, False), "weight torch.bfloat16"),
        (lambda: PLAIN(x[:, :15], weight, bias, False), r"x is \[2, 15, 5, 6\]"),
        (lambda: PLAIN(x, weight, bias, True), r"the weight \[20, 16, 3, 3\]"),
        (lambda: PLAIN(x, weight[..., :2], bias, False), r"\[20, 16, 3, 2\]"),
        (lambda: GRADIENT(x, x, weight), r"dy is \[2, 16, 5, 6\]"),
    ]:
        with pytest.raises(KernelError, match=words):
            call()

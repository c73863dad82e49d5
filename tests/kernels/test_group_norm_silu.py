"""Against the definition in float64, on the CPU and, where there is one, on a GPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddiff.kernels import calling, group_norm_silu
from ddiff.kernels.group_norm_silu import group_norm, reference
from ddiff.system.errors import KernelError

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
SHAPES = [
    ((2, 32, 8, 8), 8),
    ((3, 35, 7, 5, 3), 5),
    ((2, 7, 9, 4), 7),  # groups of one channel
    ((3, 8, 1, 1), 2),
    ((2, 1, 5, 6), 1),
    ((2, 130, 3, 3), 2),
    ((2, 48, 4, 6, 5), 8),
    ((1, 40, 33, 41), 8),  # enough for several threads, or blocks
]
# Half a unit in the last place of 1 + |y| or so; dx of float32 is what float32 sums leave.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}
NAMES = ("x", "weight", "bias", "scale", "shift")


@pytest.fixture(autouse=True)
def poisoned():
    """Memory that is not written stays not a number."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(shape, device: str, dtype: torch.dtype, modulated: bool) -> list[Any]:
    """x, weight, bias, and scale and shift (or None) as halves of one tensor, as in a net."""
    made = [torch.randn(shape) * 2 + 1, torch.randn(shape[1]), torch.randn(shape[1])]
    x, weight, bias = (value.to(device) for value in made)
    x = x.to(dtype).contiguous(memory_format=LAST[len(shape)])
    both = torch.randn(shape[0], 2 * shape[1]).to(device, dtype).chunk(2, dim=1)
    return [x, weight, bias, *(both if modulated else (None, None))]


def definition(x, groups, weight, bias, scale, shift, silu=True, eps=1e-5) -> Tensor:
    wide = (...,) + (None,) * (x.ndim - 2)
    y = F.group_norm(x, groups, weight, bias, eps)
    if scale is not None:
        y = y * (1 + scale[wide]) + shift[wide]
    return F.silu(y) if silu else y


def results(function, values, groups: int, dy: Tensor, **options) -> dict[str, Tensor]:
    """The output and the gradient of every input."""
    leaves = [None if value is None else value.detach().requires_grad_() for value in values]
    y = function(leaves[0], groups, *leaves[1:], **options)
    y.backward(dy)
    found = {"y": y.detach()}
    return found | {
        name: leaf.grad for name, leaf in zip(NAMES, leaves, strict=True) if leaf is not None
    }


def agree(values, groups: int, **options) -> dict[str, Tensor]:
    x = values[0]
    dy = torch.randn(x.shape).to(x)
    found = results(group_norm, values, groups, dy, **options)
    exact = [None if value is None else value.double() for value in values]
    for name, right in results(definition, exact, groups, dy.double(), **options).items():
        error = (found[name].double() - right).abs() / (1 + right.abs().amax())
        assert error.max() <= max(TOLERANCE[x.dtype], TOLERANCE[found[name].dtype]), name
    assert found["y"].dtype == found["x"].dtype == x.dtype
    return found


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_is_the_definition_with_its_gradients(shape, groups, dtype, device) -> None:
    for modulated, silu in ((True, True), (False, True), (False, False)):
        found = agree(inputs(shape, device, dtype, modulated), groups, silu=silu, eps=1e-3)
        assert found["y"].is_contiguous(memory_format=LAST[len(shape)])


VIEWS = {
    "contiguous": lambda x: x.contiguous(),
    "slice of channels": lambda x: torch.cat([x, x], 1)[:, 3:-3],
    "every other sample": lambda x: torch.cat([x, x])[::2],
    "every other row": lambda x: torch.cat([x, x], 2)[:, :, 1::2],
    "transposed": lambda x: x.transpose(2, 3),
    "slice of contiguous": lambda x: torch.cat([x, x], 1).contiguous()[:, 3:-3],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(2, 14, 6, 5), (2, 14, 4, 3, 5)])
def test_any_strides(shape, view, device) -> None:
    values = inputs(shape, device, torch.float32, True)
    values[0] = VIEWS[view](values[0])
    if values[0].shape[1] != 14:
        values[1:] = inputs((2, values[0].shape[1], 1, 1), device, torch.float32, True)[1:]
    found = agree(values, 2)
    last = LAST[len(shape)] if "contiguous" not in view else torch.contiguous_format
    assert found["y"].is_contiguous(memory_format=last)
    assert found["x"].shape == values[0].shape


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shifted", ["x", "dy"])
def test_one_map_off_its_alignment(shifted, dtype, device) -> None:
    """Wide loads take eight numbers at once: the channels allow it, and one address does not."""
    shape = (2, 16, 4, 5)
    x, *rest = inputs(shape, device, dtype, True)
    dy = torch.randn(shape).to(device, dtype).contiguous(memory_format=torch.channels_last)
    expected = results(group_norm, [x, *rest], 4, dy)
    for by in (1, 2, 4):
        buffer = torch.zeros(x.numel() + by, dtype=dtype, device=device)[by:]
        moved = buffer.view(2, 4, 5, 16).permute(0, 3, 1, 2)
        moved.copy_(x if shifted == "x" else dy)
        maps = (moved, dy) if shifted == "x" else (x, moved)
        found = results(group_norm, [maps[0], *rest], 4, maps[1])
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(0, 8, 3, 3), (2, 8, 0, 3)])
def test_an_empty_map_has_no_gradient(shape, device) -> None:
    found = results(group_norm, inputs(shape, device, torch.float32, True), 4, torch.zeros(shape))
    assert found["y"].shape == shape
    assert all((value == 0).all() for value in found.values())


def test_large_mean_and_outlier(device) -> None:
    x, weight, bias, _, _ = inputs((2, 32, 40, 40), device, torch.float32, False)
    for change in ("mean", "outlier"):
        values = x + 1000 if change == "mean" else x.clone()
        values[:, :, 0, 0] += 3000 * (change == "outlier")
        y, mean, rstd = group_norm_silu.NORM(values, weight, bias, None, None, 8, True, 1e-5)
        grouped = values.double().unflatten(1, (8, 4)).flatten(2)
        torch.testing.assert_close(mean.double(), grouped.mean(2), rtol=1e-7, atol=1e-5)
        spread = (grouped.var(2, correction=0) + 1e-5).rsqrt()
        torch.testing.assert_close(rstd.double(), spread, rtol=1e-5, atol=0)
        right = definition(values.double(), 8, weight.double(), bias.double(), None, None)
        assert (y - right).abs().max() < 4e-4  # a unit in the last place of 1000 is 6e-5


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_extremes_stay_finite_and_nan_stays(dtype, device) -> None:
    x = inputs((2, 16, 4, 4), device, dtype, False)[0]
    bias = torch.tensor([-1e4, -100, -88, -20, 0, 20, 88, 1e4], device=device).repeat(2)
    agree([x, torch.ones_like(bias), bias, None, None], 4)
    x[0, 0, 1, 2] = torch.nan
    y = group_norm(x, 4, torch.ones_like(bias), bias)
    assert y[0, :4].isnan().all()
    assert y[0, 4:].isfinite().all()
    assert y[1].isfinite().all()


def test_mixed_types_of_the_parameters(device) -> None:
    """Under autocast scale and shift are bfloat16 beside float32 maps, or the reverse."""
    for dtype, other in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        x, weight, bias, scale, shift = inputs((2, 16, 5, 5), device, dtype, True)
        for kinds in ((other, other), (torch.bfloat16, torch.float32)):
            found = agree([x, weight.to(kinds[0]), bias, scale.to(kinds[1]), shift.to(other)], 4)
            assert found["scale"].dtype == kinds[1]
            assert found["weight"].dtype == kinds[0]


def test_neither_batch_nor_threads_change_a_sample() -> None:
    values = inputs((3, 48, 40, 41), "cpu", torch.bfloat16, True)
    dy = torch.randn(values[0].shape).to(values[0])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = results(group_norm, values, 8, dy)
        one = [value if value.ndim == 1 else value[1:2] for value in values]
        split = results(group_norm, one, 8, dy[1:2])  # one sample over three threads
        torch.set_num_threads(1)
        alone = results(group_norm, one, 8, dy[1:2])
    finally:
        torch.set_num_threads(threads)
    for name in ("y", "x", "scale", "shift"):
        assert torch.equal(together[name][1:2], alone[name])
        assert torch.equal(split[name], alone[name])


def test_operators_are_well_registered(device) -> None:
    values = inputs((2, 12, 3, 4), device, torch.float32, True)
    leaves = [value.detach().requires_grad_() for value in values]
    torch.library.opcheck(group_norm_silu.NORM, (*leaves, 4, True, 1e-5))
    _, mean, rstd = group_norm_silu.NORM(*values, 4, True, 1e-5)
    arguments = (values[0], values[0], mean, rstd, *values[1:], 4, True)
    torch.library.opcheck(group_norm_silu.NORM_BACKWARD, arguments)
    x, *rest = inputs((2, 12, 3, 2, 2), device, torch.float32, False)
    torch.library.opcheck(group_norm_silu.NORM, (x.contiguous(), *rest, 4, False, 1e-5))


def test_compiles_as_one_graph(device) -> None:
    values = inputs((2, 16, 4, 4, 2), device, torch.bfloat16, True)
    dy = torch.randn(values[0].shape).to(values[0])
    compiled = torch.compile(group_norm, backend="aot_eager", fullgraph=True)
    plain = results(group_norm, values, 4, dy)
    for name, value in results(compiled, values, 4, dy).items():
        assert torch.equal(value, plain[name])
        assert value.stride() == plain[name].stride()


def test_reference_is_the_definition() -> None:
    values = [value.double() for value in inputs((2, 12, 3, 4), "cpu", torch.float32, True)]
    dy = torch.randn(values[0].shape).double()
    right = results(definition, values, 4, dy)
    for name, value in results(reference, values, 4, dy).items():
        torch.testing.assert_close(value, right[name])


def test_more_channels_than_shared_memory_holds_are_refused(device, monkeypatch) -> None:
    for channels, fits in ((group_norm_silu.MOST_CHANNELS, True), (6148, False)):
        x, weight, bias, _, _ = inputs((1, channels, 2, 2), device, torch.float32, False)
        if fits or calling.gpu_of(x) is None:
            agree([x, weight, bias, None, None], 4)
        else:
            with pytest.raises(KernelError, match=r"6148 channels; .* 6144; choose"):
                group_norm(x, 4, weight, bias)


MISTAKES = {
    "7 equal groups": {"groups": 7},
    "0 equal groups": {"groups": 0},
    r"weight is float32 \[11\]": {"weight": torch.ones(11)},
    "come together": {"shift": None},
    r"scale is float32 \[1, 12\]": {"scale": torch.ones(1, 12)},
    "float64": {"x": torch.ones(2, 12, 3, 4, dtype=torch.float64)},
    "2D or 3D": {"x": torch.ones(2, 12, 3)},
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_named(words) -> None:
    values = dict(zip(NAMES, inputs((2, 12, 3, 4), "cpu", torch.float32, True), strict=True))
    with pytest.raises(KernelError, match=words):
        group_norm(**{**values, "groups": 4, **MISTAKES[words]})

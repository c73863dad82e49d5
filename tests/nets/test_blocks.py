import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from ddiff.nets.blocks import Attention, Dropout, Upsample, conv
from ddiff.nets.norm import Norm, group_norm
from ddiff.nets.patches import depth_to_space, space_to_depth

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
SPACES = [(6, 5), (3, 4, 5)]


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 24), (100, 25), (7, 7), (37, 1)])
def test_norm_uses_the_most_groups_that_divide(channels, groups):
    assert Norm(channels, 32).groups == groups


def reference(x, groups, weight, bias, scale, shift, silu):
    y = F.group_norm(x, groups, weight, bias)
    if scale is not None:
        wide = (..., *[None] * (x.ndim - 2))
        y = y * (1 + scale[wide]) + shift[wide]
    return F.silu(y) if silu else y


@pytest.mark.parametrize(
    ("space", "modulated", "silu", "last"), list(product(SPACES, *[[False, True]] * 3))
)
def test_group_norm_and_its_gradients(space, modulated, silu, last):
    x = torch.randn(3, 12, *space, dtype=torch.float64) * 2 + 1
    if last:
        x = x.to(memory_format=FORMATS[x.ndim])
    inputs = [x, *torch.randn(2, 12).double()]
    inputs += list(torch.randn(2, 3, 12).double()) if modulated else []
    inputs = [v.requires_grad_() for v in inputs]
    x, weight, bias, scale, shift = [*inputs, None, None][:5]
    expected = reference(x, 4, weight, bias, scale, shift, silu)
    found = group_norm(x, 4, weight, bias, scale, shift, silu=silu)
    torch.testing.assert_close(found, expected)
    dy = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, inputs, dy),
        torch.autograd.grad(expected, inputs, dy),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("space", [(8, 8, 8), (32, 32)])  # small maps take another path
def test_group_norm_in_bf16_is_as_exact_as_bf16(space):
    x = (torch.randn(2, 64, *space) + 3).bfloat16()
    x = x.to(memory_format=FORMATS[x.ndim]).requires_grad_()
    weight, bias, dy = torch.rand(64) + 0.5, torch.randn(64), torch.randn(x.shape).bfloat16()
    exact = x.detach().double().requires_grad_()
    expected = reference(exact, 32, weight.double(), bias.double(), None, None, True)
    found = group_norm(x, 32, weight, bias)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=FORMATS[x.ndim])
    assert (found - expected).norm() < 0.006 * expected.norm()
    (dx,) = torch.autograd.grad(found, x, dy)
    (expected_dx,) = torch.autograd.grad(expected, exact, dy.double())
    assert (dx - expected_dx).norm() < 0.008 * expected_dx.norm()


def test_group_norm_under_vmap():
    x, weight, bias = torch.randn(5, 2, 8, 4, 4), torch.randn(8), torch.randn(8)

    def loss(weight, x):
        return group_norm(x, 4, weight, bias).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    torch.testing.assert_close(each, torch.stack([torch.func.grad(loss)(weight, v) for v in x]))


@pytest.mark.parametrize("head_dim", [None, 4])
@pytest.mark.parametrize("space", SPACES)
def test_attention_is_softmax_of_scaled_products(space, head_dim):
    layer = Attention(12, head_dim, groups=4)
    torch.nn.init.normal_(layer.project.weight)
    x = torch.randn(2, 12, *space)
    tokens = F.group_norm(x, 4).flatten(2)
    expected = []
    for n in range(2):
        heads = []
        for qkv in range(3):
            rows = slice(12 * qkv, 12 * (qkv + 1))
            heads.append(layer.qkv.weight[rows] @ tokens[n] + layer.qkv.bias[rows, None])
        width = head_dim or 12
        out = []
        for at in range(0, 12, width):
            q, k, v = (h[at : at + width] for h in heads)  # [width, N]
            out.append(v @ (q.T @ k / math.sqrt(width)).softmax(1).T)
        expected.append(layer.project.weight @ torch.cat(out))
    expected = x + torch.stack(expected).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_upsample_is_nearest_then_convolution(space):
    layer = Upsample(len(space), 5)
    x = torch.randn(2, 5, *space, requires_grad=True)
    expected = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    wanted = [x, *layer.parameters()]
    dy = torch.randn_like(expected)
    found = torch.autograd.grad(layer(x), wanted, dy)
    for a, b in zip(found, torch.autograd.grad(expected, wanted, dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("space", "p"), [((8, 12), 4), ((4, 2, 6), 2), ((5, 3), 1)])
def test_space_to_depth_and_back_is_exact(space, p):
    x = torch.randn(2, 3, *space)
    deep = space_to_depth(x, p)
    assert deep.shape == (2, 3 * p ** len(space), *(n // p for n in space))
    assert torch.equal(depth_to_space(deep, p), x)
    if p > 1:
        assert deep.is_contiguous(memory_format=FORMATS[x.ndim])
    if len(space) == 2:
        assert torch.equal(deep, F.pixel_unshuffle(x, p))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_dropout_drops_p_and_keeps_the_mean(p):
    x = torch.rand(4, 33, 31, 17).to(memory_format=torch.channels_last) + 0.5
    layer = Dropout(p)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    dropped = (y == 0).float().mean().item()
    assert abs(dropped - p) < 5 * math.sqrt(p * (1 - p) / x.numel()) + 1e-6
    torch.testing.assert_close(y[y != 0], (x / (1 - p))[y != 0], rtol=1e-4, atol=0)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 4, 3)])
def test_bfloat16_gradients_of_flat_volumes(shape, stride):
    """oneDNN's weight gradient at depth 2 reads what it finds in memory: here, NaN."""
    layer = conv(3, 16, 16, stride=stride)
    exact = torch.nn.Conv3d(16, 16, 3, stride, padding=1)
    exact.load_state_dict(layer.state_dict())
    for _ in range(10):
        poison = [torch.full((2**size,), math.nan) for size in range(8, 20) for _ in range(3)]
        del poison
        x = torch.randn(4, 16, *shape)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        g = torch.randn(y.shape)
        (got,) = torch.autograd.grad(y, layer.weight, g.to(y.dtype))
        (expected,) = torch.autograd.grad(exact(x), exact.weight, g)
        assert ((got - expected).norm() / expected.norm()).item() < 0.02

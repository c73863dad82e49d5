"""The diffusion transformer: its positions, its contract as a net, and the size of the paper's."""

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import Tensor

from ddiff.nets import DiT, LogSNR, Sinusoidal
from ddiff.nets.dit import Rotary, SelfAttention, TransformerBlock, modulated
from ddiff.system.errors import ConfigError
from tests.support.nets import batch, perturbed

SHAPES = [(3, 8, 12), (2, 4, 8, 6)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


def build(shape, num_classes=None, **options):
    options = {"width": 32, "depth": 2, "head_dim": 16, "embedding": Sinusoidal(8)} | options
    return DiT(shape, num_classes, **options)


def test_as_many_parameters_as_the_paper_s():
    """DiT-B/2 has 130 M: Peebles and Xie 2023, Table 4. 256 pixels are 32 latent ones."""
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = compose(overrides=["+net=dit_base"])
    cfg.net.shape, cfg.net.num_classes = [4, 32, 32], 1000
    with torch.device("meta"):
        net = instantiate(cfg.net)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(130e6, rel=0.02)
    assert (len(net.blocks), net.blocks[0].attention.heads) == (12, 12)


@each_shape
@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("input_skip", [False, True])
def test_begins_at_zero_and_trains_every_parameter(shape, patch_size, input_skip):
    net = build(shape, 5, patch_size=patch_size, input_skip=input_skip)
    x, t = batch(shape)
    y = torch.tensor([-1, 0, 4])
    assert torch.equal(net(x, t, y), torch.zeros_like(x))
    if input_skip:
        net.gain.bias.data.fill_(0.75)
        assert torch.equal(net(x, t, y), 0.75 * x)
    perturbed(net)(x, t, y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_a_new_block_is_the_identity():
    block = TransformerBlock(32, 16, 8, 4.0, 0.0)
    x = torch.randn(2, 12, 32)
    assert torch.equal(block(x, torch.randn(2, 8), Rotary((3, 4), 16)), x)


def test_bounded_is_the_tanh():
    net = perturbed(build((1, 8, 8), input_skip=True))
    x, t = batch((1, 8, 8))
    expected = net(x, t).tanh()
    net.bounded = True
    assert torch.equal(net(x, t), expected)


@each_shape
def test_labels_and_times_matter(shape):
    net = perturbed(build(shape, 5))
    x, t = batch(shape)
    none = net(x, t)
    torch.testing.assert_close(net(x, t, torch.full((3,), -1)), none)
    for y in (0, 4):
        assert (net(x, t, torch.full((3,), y)) - none).abs().max() > 1e-3
    assert (net(x, t + 100) - none).abs().max() > 1e-3


@each_shape
def test_samples_of_a_batch_do_not_meet(shape):
    net = perturbed(build(shape))
    x, t = batch(shape)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t), alone, rtol=1e-4, atol=1e-5)


def scores(grid: tuple[int, ...], q: Tensor, k: Tensor, head_dim: int) -> Tensor:
    """Products [*grid, *grid] of one query and one key [head_dim], put at every place."""
    rotary = Rotary(grid, head_dim)
    n = len(rotary.cos)
    turned = [rotary(v.expand(1, 1, n, head_dim))[0, 0] for v in (q, k)]
    return (turned[0] @ turned[1].T).view(*grid, *grid)


@pytest.mark.parametrize(("grid", "head_dim"), [((5, 7), 16), ((3, 4, 5), 32), ((4, 4), 7)])
def test_scores_depend_on_differences_of_positions_only(grid, head_dim):
    q, k = torch.randn(2, head_dim)
    found = scores(grid, q, k, head_dim)
    for axis in range(len(grid)):
        n = grid[axis]
        both = found.narrow(axis, 1, n - 1).narrow(axis + len(grid), 1, n - 1)
        neither = found.narrow(axis, 0, n - 1).narrow(axis + len(grid), 0, n - 1)
        torch.testing.assert_close(both, neither, rtol=1e-4, atol=1e-4)
        once = found.narrow(axis, 1, n - 1).narrow(axis + len(grid), 0, n - 1)
        assert (once - neither).abs().max() > 0.1  # and they do depend on those


def test_rotations_are_those_of_the_formula():
    """Pair i of n turns by p 100^(-i / n) along its own axis, as a complex number."""
    grid, head_dim, n = (3, 4), 10, 2
    x = torch.randn(1, 1, 12, head_dim)
    found = Rotary(grid, head_dim)(x)
    pairs = torch.complex(x[..., :4], x[..., 4:8])
    for row in range(3):
        for column in range(4):
            angles = [p * 100 ** (-i / n) for p in (row, column) for i in range(n)]
            place = 4 * row + column
            turned = pairs[0, 0, place] * torch.polar(torch.ones(4), torch.tensor(angles))
            expected = torch.cat([turned.real, turned.imag, x[0, 0, place, 8:]])
            torch.testing.assert_close(found[0, 0, place], expected)


@pytest.mark.parametrize("grid", [(4, 3), (2, 3, 4)])
def test_axes_are_not_mixed(grid):
    """A step along one axis turns the pairs of that axis only."""
    rotary = Rotary(grid, 24)
    cos = rotary.cos.view(*grid, len(grid), -1)  # [*grid, axis, pairs]
    for axis in range(len(grid)):
        step = cos.narrow(axis, 1, 1) - cos.narrow(axis, 0, 1)
        changed = step.abs().amax(tuple(range(len(grid)))) > 1e-4  # [axis, pairs]
        assert changed[axis].all()
        assert not changed[torch.arange(len(grid)) != axis].any()


class Still(Rotary):
    """Positions that turn nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_only_the_positions_tell_tokens_apart():
    attention = perturbed(SelfAttention(32, 16))
    x, order = torch.randn(2, 12, 32), torch.randperm(12)
    for rotary, same in ((Still((3, 4), 16), True), (Rotary((3, 4), 16), False)):
        moved = attention(x[:, order], rotary)
        assert torch.allclose(moved, attention(x, rotary)[:, order], atol=1e-5) == same


def test_attention_is_that_of_the_equation():
    """In float64, one head after another."""
    attention, rotary = perturbed(SelfAttention(32, 16)), Rotary((3, 4), 16)
    x = torch.randn(2, 12, 32)
    wide = perturbed(SelfAttention(32, 16))
    wide.load_state_dict(attention.state_dict())
    qkv = wide.double().qkv(x.double())
    heads = []
    for head in range(2):
        q, k, v = (qkv[..., at + 16 * head :][..., :16] for at in (0, 32, 64))
        q, k = (
            rotary((z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w)[:, None])[:, 0]
            for z, w in ((q, wide.norm_q.weight), (k, wide.norm_k.weight))
        )
        heads.append((q.double() @ k.double().mT / 4).softmax(-1) @ v)
    expected = wide.project(torch.cat(heads, -1))
    torch.testing.assert_close(attention(x, rotary), expected.float(), rtol=1e-4, atol=1e-5)


def test_the_norm_is_scaled_and_shifted():
    x, shift, scale = torch.randn(2, 5, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    n = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(modulated(x, shift, scale), n * (1 + scale) + shift)


@pytest.mark.slow
@each_shape
@pytest.mark.parametrize("patch_size", [1, 2])
def test_compiled_in_one_graph_equals_eager(shape, patch_size):
    net = perturbed(build(shape, 5, patch_size=patch_size))
    x, t = batch(shape)
    y = torch.tensor([-1, 0, 4])
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, t, y), net(x, t, y), rtol=1e-4, atol=1e-5)


@each_shape
def test_half_precision_keeps_the_positions(shape):
    net = perturbed(build(shape, embedding=log_snr()))
    x, t = batch(shape)
    t = t.clamp(max=9)
    exact, cos = net(x, t), net.rotary.cos.clone()
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x, t)
    assert (found - exact).norm() < 0.02 * exact.norm()
    net.bfloat16()
    assert torch.equal(net.rotary.cos, cos)
    assert (net(x.bfloat16(), t).float() - exact).norm() < 0.02 * exact.norm()
    assert not [name for name in net.state_dict() if "rotary" in name]


def log_snr():
    return LogSNR(8, Table())


class Table:
    abar = torch.linspace(1, 0.02, 11, dtype=torch.float64)


def test_weights_of_one_size_fit_another():
    small, large = perturbed(build((1, 8, 8))), build((1, 16, 12))
    large.load_state_dict(small.state_dict())
    assert large(*batch((1, 16, 12))).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 4, 4, 4)])
def test_learns(shape):
    """Predicting nothing costs 1; the net is to see which half of a sample is bright."""
    torch.manual_seed(0)
    net = build(shape)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        x_0 = torch.ones(16, *shape) * torch.randint(0, 2, (16, *[1] * len(shape))).mul(2).sub(1)
        x_0[:, :, shape[1] // 2 :] *= -1
        x = (x_0 + torch.randn_like(x_0)) / 2**0.5
        loss = (net(x, torch.zeros(16, dtype=torch.int64)) - x_0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1)
    assert sum(losses[-5:]) / 5 < 0.1


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 9, 8), {}, r"size 9 does not divide by 2 \(patch_size 2\)"),
        ((1, 8), {}, r"\[C, H, W\] or \[C, D, H, W\], not \[1, 8\]"),
        ((1, 8, 8), {"head_dim": 12}, "head_dim=12 does not divide net.width=32"),
        ((1, 8, 8), {"head_dim": 2}, "head_dim=2 is too small .* 2 axes; it is at least 4"),
        ((1, 4, 4, 4), {"head_dim": 4}, "head_dim=4 is too small .* 3 axes; it is at least 6"),
    ],
)
def test_refuses_in_words(shape, options, words):
    with pytest.raises(ConfigError, match=words):
        build(shape, **options)


def test_another_size_is_refused_not_resized():
    net = build((1, 8, 8))
    with pytest.raises(ConfigError, match=r"\[1, 8, 8\], and was given \[1, 16, 16\]"):
        net(torch.zeros(2, 1, 16, 16), torch.zeros(2, dtype=torch.int64))

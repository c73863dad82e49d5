import pytest
import torch
import torch.nn.functional as F

from ddiff.nets import Sinusoidal, UNet
from ddiff.nets.blocks import Downsample
from ddiff.nets.norm import Norm
from ddiff.system.errors import ConfigError
from tests.support.nets import batch, perturbed

SHAPES = [(3, 8, 8), (2, 4, 8, 4)]
FORMATS = {3: torch.channels_last, 4: torch.channels_last_3d}


def build(shape, num_classes=None, **options):
    options = {"channels": [8, 16], "num_blocks": 1, "groups": 4} | options
    return UNet(shape, num_classes, embedding=Sinusoidal(8), **options)


def test_parameter_count_of_ddpm_cifar10():
    net = UNet(
        (3, 32, 32),
        None,
        channels=[128, 256, 256, 256],
        embedding=Sinusoidal(128),
        num_blocks=2,
        attention=[16],
        dropout=0.1,
        modulation="shift",
    )
    assert sum(p.numel() for p in net.parameters()) == 35_746_307


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("input_skip", [False, True])
def test_begins_at_zero_and_trains_every_parameter(shape, input_skip):
    options = {"patch_size": 2, "head_dim": 4} if len(shape) == 3 else {}
    net = build(shape, 5, attention=[4], input_skip=input_skip, **options)
    x, t = batch(shape)
    y = torch.tensor([-1, 0, 4])
    assert torch.equal(net(x, t, y), torch.zeros_like(x))
    perturbed(net)(x, t, y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_a_bounded_net_can_be_the_posterior_mean_of_independent_voxels():
    net = build((1, 8, 8), input_skip=True, bounded=True)
    a, log_odds = 0.6, 0.7
    variance = 1 - a**2
    with torch.no_grad():
        net.gain.bias.fill_(a / variance)
        net.out.bias.fill_(log_odds / 2)
    x_t = 3 * torch.randn(2, 1, 8, 8)
    of_one = torch.special.expit(torch.tensor(log_odds)) * (-((x_t - a) ** 2) / 2 / variance).exp()
    of_minus_one = (
        torch.special.expit(-torch.tensor(log_odds)) * (-((x_t + a) ** 2) / 2 / variance).exp()
    )
    expected = (of_one - of_minus_one) / (of_one + of_minus_one)  # Bayes
    torch.testing.assert_close(net(x_t, torch.zeros(2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("modulation", ["scale_shift", "shift"])
def test_labels_and_times_matter(shape, modulation):
    net = perturbed(build(shape, 5, modulation=modulation))
    x, t = batch(shape)
    none = net(x, t)
    torch.testing.assert_close(net(x, t, torch.full((3,), -1)), none)
    for y in (0, 4):
        assert (net(x, t, torch.full((3,), y)) - none).abs().max() > 1e-3
    assert (net(x, t + 100) - none).abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_of_a_batch_do_not_meet(shape):
    net = perturbed(build(shape, attention=[8]))
    x, t = batch(shape)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("modulation", ["scale_shift", "shift"])
def test_channels_last_and_contiguous_agree(shape, modulation):
    net = perturbed(build(shape, attention=[8], modulation=modulation))
    x, t = batch(shape)
    expected = net(x, t)
    grads = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    net = net.to(memory_format=FORMATS[len(shape)])
    found = net(x, t)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), list(net.parameters())), grads, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * b.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_autocast_is_close_and_stays_bf16_and_channels_last(shape):
    net = perturbed(build(shape, attention=[4], patch_size=2 if len(shape) == 3 else 1))
    net = net.to(memory_format=FORMATS[len(shape)])
    x, t = batch(shape)
    exact = net(x, t)
    strays = []
    # where the processor has no bfloat16, torch's stand-in for a convolution in 3D keeps no layout
    keeps = len(shape) == 3 or torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def look(module, args, out):
        if out.dtype != torch.bfloat16:
            strays.append((type(module).__name__, out.dtype))
        elif keeps and not out.is_contiguous(memory_format=FORMATS[len(shape)]):
            strays.append((type(module).__name__, out.stride()))

    for block in [*net.down, *net.middle, *net.up, net.norm, net.out]:
        block.register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x, t)
    assert strays == []
    assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointed_levels_have_identical_gradients(shape, dropout):
    net = perturbed(build(shape, attention=[4], dropout=dropout))
    x, t = batch(shape)
    results = []
    for recompute in (False, True):
        for block in [*net.down, *net.up]:
            block.recompute = recompute
        torch.manual_seed(7)
        loss = net(x, t).square().sum()
        results.append(torch.autograd.grad(loss, list(net.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_checkpoint_levels_select_blocks_on_both_ways():
    net = build((3, 8, 8), checkpoint_levels=[0])
    assert [getattr(m, "recompute", None) for m in net.down] == [True, None, False]
    assert [getattr(m, "recompute", None) for m in net.up] == [False, False, None, True, True]


def test_attention_sits_at_the_sizes_after_the_stem():
    net = build((1, 16, 16), patch_size=2, attention=[4], mid_attention=False)
    heads = [hasattr(m, "res") and hasattr(m.attention, "heads") for m in [*net.down, *net.up]]
    assert heads == [False, False, True, True, True, False, False, False]
    assert not any(hasattr(m.attention, "heads") for m in net.middle)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 30, 32), {"channels": [8] * 3}, "size 30 does not divide by 4"),
        ((1, 12, 12, 12), {"patch_size": 4}, "size 12 does not divide by 8"),
        ((1, 8), {}, r"\[C, H, W\] or \[C, D, H, W\], not \[1, 8\]"),
        (None, {}, "not None"),
        ((1, 8, 8), {"attention": [16]}, r"attention=\[16\] is none of .* \[8, 4\]"),
        ((1, 8, 8), {"checkpoint_levels": [2]}, r"\[2\]; the levels are \[0, 1\]"),
        ((1, 8, 8), {"head_dim": 5}, "head_dim=5 does not divide 16"),
        ((1, 8, 8), {"modulation": "scale"}, "choose from scale_shift, shift"),
    ],
)
def test_refuses_in_words(shape, options, words):
    with pytest.raises(ConfigError, match=words):
        build(shape, **options)


def test_another_size_is_refused_not_resized():
    net = build((1, 8, 8))
    with pytest.raises(ConfigError, match=r"\[1, 8, 8\], and was given \[1, 16, 16\]"):
        net(torch.zeros(2, 1, 16, 16), torch.zeros(2, dtype=torch.int64))


def test_compile_in_place_keeps_the_state_dict_keys():
    net = build((1, 8, 8))
    keys = list(net.state_dict())
    net.compile(backend="eager")
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_at_the_end_only_are_those_of_a_padded_input(shape):
    net = perturbed(build(shape, downsample_padding="end"))
    layer = next(m for m in net.modules() if isinstance(m, Downsample))
    x = torch.randn(2, 8, *shape[1:])
    padded = F.pad(x, (0, 1) * (len(shape) - 1))
    convolve = F.conv2d if len(shape) == 3 else F.conv3d
    expected = convolve(padded, layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape[2:] == tuple(n // 2 for n in x.shape[2:])
    y, t = batch(shape)
    assert net(y, t).shape == y.shape
    other = build(shape)
    other.load_state_dict(net.state_dict())
    assert (net(y, t) - other(y, t)).abs().max() > 1e-3


def test_norm_eps_reaches_every_norm():
    net = build((3, 8, 8), attention=[4], norm_eps=0.25)
    norms = [m for m in net.modules() if isinstance(m, Norm)]
    assert {norm.eps for norm in norms} == {0.25}
    assert len(norms) > 10


def test_an_unknown_padding_is_refused():
    with pytest.raises(ConfigError, match=r"net\.downsample_padding=start; choose from both, end"):
        build((3, 8, 8), downsample_padding="start")

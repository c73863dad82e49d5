"""The baselines keep the contract of a net."""

from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from ddiff.nets import LogSNR, Plain3d, RawTime2d, Simple2d, Sinusoidal, UNet, Untimed3d
from ddiff.system.errors import ConfigError

ABAR = torch.linspace(1, 0.02, 11, dtype=torch.float64)


def log_snr():
    return LogSNR(16, SimpleNamespace(abar=ABAR))


def unet(shape, num_classes, embedding):
    options = {"patch_size": 2, "input_skip": True} if len(shape) == 4 else {}
    return UNet(shape, num_classes, [16, 32], embedding, num_blocks=1, groups=4, **options)


# name: (build(embedding), shape, the loss to reach; predicting nothing costs 1)
NETS = {
    "unet 2D": (unet, (1, 8, 8), 0.08),
    "unet 3D": (unet, (1, 8, 8, 8), 0.08),
    "simple2d": (Simple2d, (1, 8, 8), 0.15),
    "plain3d": (Plain3d, (1, 8, 8, 8), 0.2),
}
EQUAL = {  # preset: a shape, and the parameters of the net that it is as large as
    "untimed3d": ((1, 8, 8, 8), 28_609),
    "rawtime2d": ((1, 8, 8), 2_522_561),
}


@pytest.mark.parametrize("name", EQUAL)
def test_nets_of_equal_weights(name):
    shape, count = EQUAL[name]
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = compose(overrides=[f"+net={name}"]).net
    cfg.shape = list(shape)
    net = instantiate(cfg)
    assert sum(p.numel() for p in net.parameters()) == count
    x, t = torch.randn(2, *shape), torch.tensor([1, 500])
    assert net(x, t).shape == x.shape
    changed = (net(x, t + 1) - net(x, t)).abs().max().item()
    assert (changed > 1e-5) == (name == "rawtime2d")
    with pytest.raises(ConfigError, match=f"net={name} is told neither .* module=ddpm"):
        type(net)(shape, 3)


def test_the_raw_time_is_a_line_at_the_bottom():
    """The bottom's map moves by 3 w for 3 more steps, at every place alike."""
    net = RawTime2d((1, 8, 8), channels=4)
    seen = []
    net.up_2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0, 700])
    net(x, t), net(x, t + 3)
    moved = (3 * net.time.weight[:, 0])[None, :, None, None].expand(2, -1, 2, 2)
    torch.testing.assert_close(seen[1] - seen[0], moved, atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="size 6 does not divide by 4"):
        RawTime2d((1, 8, 6))
    assert Untimed3d((2, 4, 6, 5), channels=3)(torch.zeros(1, 2, 4, 6, 5), t[:1]).shape[1] == 2


@pytest.mark.parametrize("name", ["simple2d", "plain3d"])
def test_baselines_know_times_and_labels(name):
    make, shape, _ = NETS[name]
    net = make(shape, 3, embedding=Sinusoidal(16))
    x, t = torch.randn(2, *shape), torch.tensor([1, 5])
    none = net(x, t)
    assert none.shape == x.shape
    torch.testing.assert_close(net(x, t, torch.tensor([-1, -1])), none)
    assert (net(x, t, torch.tensor([0, 2])) - none).abs().amax(tuple(range(1, x.ndim))).min() > 1e-3
    assert (net(x, t + 3) - none).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (Plain3d, (1, 8, 8), r"\[C, D, H, W\], not \[1, 8, 8\]"),
        (Simple2d, (1, 8, 8, 8), r"\[C, H, W\], not \[1, 8, 8, 8\]"),
        (Simple2d, (1, 9, 8), "size 9 does not divide by 2"),
    ],
)
def test_wrong_dimensions_are_refused(make, shape, words):
    with pytest.raises(ConfigError, match=words):
        make(shape, None, Sinusoidal(16))

"""The baselines keep the contract of a net."""

from types import SimpleNamespace

import pytest
import torch

from ddiff.nets import LogSNR, Plain3d, Simple2d, Sinusoidal, UNet
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

"""Every net learns a small denoising problem, and the baselines keep the contract."""

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


@pytest.mark.parametrize("embedding", [lambda: Sinusoidal(16), log_snr], ids=["sin", "log_snr"])
@pytest.mark.parametrize("name", NETS)
def test_learns_to_denoise(name, embedding):
    make, shape, goal = NETS[name]
    net = make(shape, 2, embedding=embedding())
    wide = (..., *[None] * len(shape))
    axes = [torch.linspace(-1, 1, 8)] * (len(shape) - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0)
    data = torch.stack([grid.sign(), -(2 * grid).cos().sign()])[:, None]  # one picture a class
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        t, y = torch.randint(10, (16,)), torch.randint(2, (16,))
        abar = ABAR[t + 1].float()[wide]
        eps = torch.randn(16, *shape)
        prediction = net(abar.sqrt() * data[y] + (1 - abar).sqrt() * eps, t, y)
        loss = (prediction - eps).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < goal


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

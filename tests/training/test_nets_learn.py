"""Every net learns a small denoising problem."""

import pytest
import torch

from ddiff.nets import Sinusoidal
from tests.nets.test_baselines import ABAR, NETS, log_snr

EMBEDDINGS = [
    pytest.param(lambda: Sinusoidal(16), id="sin"),
    pytest.param(log_snr, id="log_snr", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "unet 3D" else n for n in NETS]
)
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

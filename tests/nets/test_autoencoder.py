"""The autoencoder: shapes of its latents, its rate, and what decodes."""

import math

import pytest
import torch

from ddiff.nets import Autoencoder
from ddiff.nets.autoencoder import Decoder, rate
from ddiff.system.errors import ConfigError


@pytest.mark.parametrize(
    ("shape", "patch_size", "channels", "latent_shape"),
    [
        ((3, 8, 12), 1, (8, 16), (2, 4, 6)),
        ((1, 8, 8, 16), 2, (8, 16), (2, 2, 2, 4)),
        ((1, 8, 8), 4, (8,), (2, 2, 2)),
    ],
    ids=["2D", "3D, patches", "one level"],
)
def test_latents_are_smaller_by_the_factor(
    shape: tuple[int, ...], patch_size: int, channels: tuple[int, ...], latent_shape: tuple
) -> None:
    net = Autoencoder(shape, channels, latent_channels=2, patch_size=patch_size)
    x = torch.randn(3, *shape)
    x_hat, mean, log_variance = net(x, None)
    assert net.latent_shape == tuple(mean.shape[1:]) == tuple(log_variance.shape[1:])
    assert net.latent_shape == latent_shape
    torch.testing.assert_close(x_hat, net.decode(mean), rtol=0, atol=0)
    noise = torch.randn_like(mean)
    torch.testing.assert_close(
        net(x, noise)[0], net.decode(mean + (log_variance / 2).exp() * noise), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 8, 8), id="2D"),
        pytest.param((1, 8, 8, 8), id="3D", marks=pytest.mark.slow),
    ],
)
def test_learns_to_put_one_number_through(shape: tuple[int, ...]) -> None:
    """A bright half, of any brightness: one latent number a place tells it."""
    torch.manual_seed(0)
    net = Autoencoder(shape, (8, 8), latent_channels=1)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(100):
        x = torch.full((16, *shape), -1.0)
        x[:, :, shape[1] // 2 :] = 2 * torch.rand(16, *[1] * len(shape)) - 1
        x_hat, mean, log_variance = net(x, torch.randn(16, *net.latent_shape))
        loss = (x_hat - x).square().mean() + 1e-4 * rate(mean, log_variance).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05  # the mean of every value has 1 / 6


def test_the_rate_is_torch_s_divergence_from_the_standard_normal() -> None:
    mean, log_variance = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    wanted = torch.distributions.kl_divergence(posterior, prior).flatten(1).mean(1)
    torch.testing.assert_close(rate(mean, log_variance), wanted)
    assert rate(torch.zeros(1, 5), torch.zeros(1, 5)).item() == 0
    one = rate(torch.zeros(1, 1), torch.full((1, 1), math.log(1 / 16)))  # a sixteenth: 2 bits + ..
    assert one.item() == pytest.approx(2 * math.log(2) - 15 / 32)


def test_the_decoder_undoes_the_units_and_stays_in_range() -> None:
    net = Autoencoder((1, 8, 8), (8, 8), latent_channels=2)
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    decoder = Decoder(net, {}, mean, std)
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    latents = net.encode(x)[0]
    wide = (...,) + (None,) * 2
    torch.testing.assert_close(decoder.encoded(x), (latents - mean[wide]) / std[wide])
    torch.testing.assert_close(decoder(decoder.encoded(x)), net(x, None)[0].clamp(-1, 1))
    assert decoder(100 * torch.randn(5, *net.latent_shape)).abs().max() == 1
    assert decoder.shape == (1, 8, 8)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"size 9 does not divide by 2"):
        Autoencoder((1, 9, 9), (8, 8))
    with pytest.raises(ConfigError, match=r"net\.channels"):
        Autoencoder((1, 8, 8), ())
    net = Autoencoder((1, 8, 8), (8, 8))
    with pytest.raises(ConfigError, match=r"inputs of \[1, 8, 8\]"):
        net(torch.zeros(2, 1, 4, 4), None)
    with pytest.raises(ConfigError, match=r"inputs of \[4, 4, 4\]"):
        net.decode(torch.zeros(2, 4, 8, 8))

"""The autoencoder of latent diffusion (Rombach et al. 2022), in 2D and in 3D."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ddiff.nets.blocks import Downsample, ResBlock, Upsample, conv
from ddiff.nets.checks import check_divides, check_input, checked_shape
from ddiff.nets.norm import Norm
from ddiff.nets.patches import depth_to_space, space_to_depth
from ddiff.system.bounds import Count, Filled
from ddiff.system.errors import ConfigError

LOG_VARIANCE = (-30.0, 20.0)  # bounds: exp of more is not finite in 16 bits


class Autoencoder(nn.Module):
    """A variational autoencoder: x [B, C, *S] -> (x_hat [B, C, *S], mean, log variance).

    Mean and log variance [B, c, *S / factor] are of the Gaussian posterior of the latents, with
    factor = patch_size 2^(levels - 1). `x_hat` is decoded from a draw of it if noise is given, else
    from the mean.

    - `shape`: [C, *S].
    - `channels`: one number a level; the size halves from level to level.
    - `latent_channels`: c.
    - `patch_size`: space to depth before the first convolution, and back after the last.
    - `num_blocks`: residual blocks a level, in the encoder and in the decoder.
    - `groups`: groups of the group norms, at most.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Annotated[Sequence[Count], Filled()] = (32, 64),
        latent_channels: Count = 4,
        patch_size: Count = 1,
        num_blocks: Count = 1,
        groups: Count = 8,
    ):
        super().__init__()
        self.shape, self.patch_size = checked_shape(shape), patch_size
        if not channels or min(channels) < 1:
            raise ConfigError(f"net.channels must be one positive number a level, not {channels}")
        dims, levels = len(self.shape) - 1, len(channels)
        factor = patch_size * 2 ** (levels - 1)
        why = f"patch_size {patch_size} x 2^{levels - 1} for {levels} levels"
        check_divides(self.shape, factor, why)
        self.latent_shape = (latent_channels, *(side // factor for side in self.shape[1:]))
        depth = self.shape[0] * patch_size**dims

        def blocks(inputs: int, width: int) -> list[nn.Module]:
            widths = [inputs] + [width] * num_blocks
            return [
                ResBlock(dims, a, width, None, 0.0, "shift", groups) for a in widths[:num_blocks]
            ]

        def end(width: int, outputs: int) -> list[nn.Module]:
            return [Norm(width, groups), conv(dims, width, outputs)]

        first, last = channels[0], channels[-1]
        down: list[nn.Module] = [conv(dims, depth, first)]
        for level, width in enumerate(channels):
            down += [Downsample(dims, channels[level - 1])] if level else []
            down += blocks(channels[level - 1] if level else first, width)
        up: list[nn.Module] = [conv(dims, latent_channels, last)]
        for level, width in reversed([*enumerate(channels)]):
            up += blocks(channels[level + 1] if level < levels - 1 else last, width)
            up += [Upsample(dims, width)] if level else []
        self.encoder = nn.Sequential(*down, *end(last, 2 * latent_channels))
        self.decoder = nn.Sequential(*up, *end(first, depth))

    def forward(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_hat, mean and log variance.

        `noise`: standard normal, of the latents' shape; None: x_hat is decoded from the mean.
        """
        mean, log_variance = self.encode(x)
        z = mean if noise is None else mean + (0.5 * log_variance).exp() * noise
        return self.decode(z), mean, log_variance

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents of x [B, C, *S]."""
        check_input(x, self.shape)
        mean, log_variance = self.encoder(space_to_depth(x, self.patch_size)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, z: Tensor) -> Tensor:
        """Return x_hat [B, C, *S] of latents z [B, c, *S / factor]."""
        check_input(z, self.latent_shape)
        return depth_to_space(self.decoder(z), self.patch_size)


def rate(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the rate of each sample in nats per latent value, [B].

    That is the Kullback-Leibler divergence of the posterior from the standard normal law.
    """
    nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return nats.flatten(1).mean(1)


class Decoder(nn.Module):
    """Latents in the units of a diffusion net -> samples [B, C, *S] in [-1, 1].

    A diffusion net sees latents of mean 0 and variance 1 in every channel.

    - `autoencoder`: its decoder is what runs, and `options` are those that it was built from.
    - `mean`, `std`: [c], of the encoder's latents; None: 0 and 1.
    - `bound`: the largest absolute value of the data in the units of the net.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        options: Mapping[str, Any],
        mean: Tensor | None = None,
        std: Tensor | None = None,
        bound: float = 1.0,
    ) -> None:
        super().__init__()
        self.autoencoder, self.options, self.bound = autoencoder, options, bound
        channels = autoencoder.latent_shape[0]
        mean = torch.zeros(channels) if mean is None else mean
        std = torch.ones(channels) if std is None else std
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample, [C, *S]."""
        return self.autoencoder.shape

    def facts(self) -> dict[str, Any]:
        """Return what makes this decoder again, together with its state dict: plain values."""
        return {"net": dict(self.options), "bound": self.bound}

    def wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std, [c, 1, ...] as x [B, c, *S] needs them."""
        after = (...,) + (None,) * (x.ndim - 2)
        return self.mean[after], self.std[after]

    @torch.no_grad()
    def encoded(self, x: Tensor) -> Tensor:
        """Return the means of the latents of x [B, C, *S], in the units of a diffusion net."""
        mean, std = self.wide(x)
        return (self.autoencoder.encode(x)[0] - mean) / std

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        return self.decoded(z)

    def decoded(self, z: Tensor) -> Tensor:
        """Return the samples of latents z [B, c, *S], with gradients if they are asked for."""
        mean, std = self.wide(z)
        return self.autoencoder.decode(z * std + mean).clamp(-1, 1)

"""The training of an autoencoder, whose latents a diffusion can be trained in."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ddiff.nets.autoencoder import rate
from ddiff.system.bounds import NotNegative
from ddiff.system.phases import phase
from ddiff.system.random import STREAM, generator
from ddiff.training.modules.learner import Batch, Learner

BITS = 1 / math.log(2)  # a nat


class Autoencoder(Learner):
    """Mean square error + `rate_weight` x rate; the net is `nets.Autoencoder`, or like it.

    The error is a mean over the values of a sample, the rate (`nets.autoencoder.rate`) one over its
    latent values.
    """

    generative = False
    inputs = ("x", "noise")
    suited = ("a net that encodes and decodes", "net=autoencoder")
    instead = (
        "is an autoencoder, which makes no samples; train a diffusion in its latents: "
        "python -m ddiff.train data=latent data.run={source}"
    )

    def __init__(self, rate_weight: NotNegative = 1e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate_weight = rate_weight

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        x = batch[0]
        with phase("noise"):
            _, g = self.next_words(x.device)
            noise = self.noise(x, g)
        with phase("forward"):
            x_hat, *posterior = self.outputs(self.net, x, noise)
        with phase("loss"):
            rates = rate(*posterior)
            losses = squared_error(x_hat, x) + self.rate_weight * rates
            loss = losses.mean()
        self.latest["train/loss"] = loss.detach()
        self.latest["train/rate"] = rates.detach().mean() * BITS
        return {"loss": loss, "losses": losses.detach()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on the same noise every time; the reconstruction from the posterior's mean,
        which is what latents are."""
        x, number = batch[0], self.val_number(batch_idx)
        if number is None:
            return
        g = generator(x.device, self.seed, "val", STREAM, number)
        x_hat, *posterior = self.outputs(self.ema, x, self.noise(x, g))
        rates = rate(*posterior)
        losses = squared_error(x_hat, x) + self.rate_weight * rates
        metrics = {
            "val/loss": losses.mean(),
            "val/reconstruction": squared_error(self.reconstructed(x), x).mean(),
            "val/rate": rates.mean() * BITS,
        }
        self.val_batches.append((number, len(x), metrics))

    def figures(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is logged: the root of the mean square error, its PSNR, and the bits."""
        error = means["val/reconstruction"].sqrt()
        values = math.prod(self.latent_shape)
        return {
            **means,
            "val/reconstruction": error,
            "val/psnr": 20 * torch.log10(2 / error),  # values lie in [-1, 1]
            "val/bits_per_sample": means["val/rate"] * values,
        }

    def reconstructed(self, x: Tensor) -> Tensor:
        """Return what the averaged net makes of x [B, C, *S], in [-1, 1]."""
        return self.outputs(self.ema, x, None)[0].clamp(-1, 1)

    def noise(self, x: Tensor, g: torch.Generator) -> Tensor:
        """Return standard normal noise of the shape of the latents of x."""
        return torch.randn(len(x), *self.latent_shape, generator=g, device=x.device)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the latents of a sample."""
        net: Any = self.net
        return tuple(net.latent_shape)

    def outputs(
        self, net: nn.Module, x: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_hat, mean and log variance in float32, by a net in this module's precision."""
        with self.precision.autocast(x.device):
            x_hat, mean, log_variance = net(x, noise)
        return x_hat.float(), mean.float(), log_variance.float()


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean square error of each sample, [B]."""
    return (a - b).square().flatten(1).mean(1)

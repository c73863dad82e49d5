"""The training step as Lightning wants it. Glue only: the mathematics is in ddiff.diffusion."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddiff.diffusion import Objective, Schedule
from ddiff.diffusion.gradients import Predict, batched, last_layer
from ddiff.diffusion.objectives import X0
from ddiff.diffusion.timesteps import Stratified, TimestepSampler
from ddiff.diffusion.timesteps.base import Gradient
from ddiff.errors import ConfigError
from ddiff.modules.learner import Batch, Learner
from ddiff.modules.tenths import TENTHS, by_tenth
from ddiff.profiling import phase
from ddiff.random import generator, key

# (x_0, coefficients [B, 4], samples [B], key, draw) -> (x_t, target)
AddNoise = Callable[[Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


class DDPM(Learner):
    """Unconditional denoising diffusion in 2D and 3D. Labels in the batch are ignored."""

    def __init__(
        self,
        schedule: Schedule,
        objective: Objective,
        timesteps: TimestepSampler,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        objective.check(schedule)
        if getattr(self.net, "bounded", False) and not isinstance(objective, X0):
            raise ConfigError(
                f"net.bounded=true keeps predictions between -1 and 1, and "
                f"{type(objective).__name__.lower()} is not; use objective=x0 or net.bounded=false"
            )
        self.schedule, self.objective, self.timesteps = schedule, objective, timesteps
        self.weights: Tensor
        self.register_buffer("weights", objective.weights(schedule).float(), persistent=False)
        a, b = schedule.abar.sqrt(), (1 - schedule.abar).sqrt()
        table = torch.stack(torch.broadcast_tensors(a, b, *objective.mix(a, b)), dim=1)
        self.coefficients: Tensor  # [T + 1, 4]: x_t = alpha x_0 + sigma eps, target = e eps + s x_0
        self.register_buffer("coefficients", table.float(), persistent=False)
        self.add_noise: AddNoise | None = None  # of a backend that has its own

    def condition(self, y: Tensor | None, g: torch.Generator) -> Tensor | None:
        """The labels the net is trained with."""
        return None

    def noised(self, x_0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and what the net should say of it, [B, C, *S] both."""
        x_t = self.schedule.add_noise(x_0, t, eps)
        return x_t, self.objective.target(self.schedule, x_0, eps, t)

    def noised_natively(
        self, x_0: Tensor, t: Tensor, words: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor]:
        """`noised` in one pass, with Philox noise of this key."""
        assert self.add_noise is not None
        samples = torch.arange(len(x_0), device=x_0.device)
        return self.add_noise(x_0, self.coefficients[t], samples, key(*words), 0)

    def denoise(
        self, net: Predict, x_t: Tensor, target: Tensor, t: Tensor, y: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Plain mean square error per sample [B], and the prediction [B, C, *S]."""
        with phase("forward"), self.precision.autocast(x_t.device):
            pred = net(x_t, t - 1, y)
        with phase("loss"):
            pred = pred.float()
            return (pred - target).square().flatten(1).mean(1), pred

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        x_0, y = batch
        with phase("noise"):
            words, g = self.next_words(x_0.device)
        with phase("timesteps"):
            world_size = self.trainer.world_size
            self.timesteps.refresh(partial(self.mean_norms, batch, words), self.batches_seen - 1)
            t, weight = self.timesteps.sample(len(x_0), g, self.global_rank, world_size)
        with phase("noise"):
            if self.add_noise is None:
                eps = torch.randn(x_0.shape, generator=g, device=x_0.device)
                x_t, target = self.noised(x_0, t, eps)
            else:
                x_t, target = self.noised_natively(x_0, t, words)
            labels = self.condition(y, g)
        losses, _ = self.denoise(self.net, x_t, target, t, labels)
        with phase("loss"):
            loss = (losses * weight * self.weights[t]).mean()
        self.latest["train/loss"] = loss.detach()
        seen = {"losses": losses.detach(), "t": t}
        if self.timesteps.watches:
            with phase("timesteps"):
                t, losses = self.everywhere(seen["t"]), self.everywhere(seen["losses"])
                self.timesteps.update(t, losses, self.weights[t])
        return {"loss": loss, **seen}

    def everywhere(self, value: Tensor) -> Tensor:
        """[B] of this rank -> [W B] of all, so that ranks agree."""
        if self.trainer.world_size == 1:
            return value
        gathered = self.all_gather(value)
        assert isinstance(gathered, Tensor)
        return gathered.flatten()

    def losses_at(self, batch: Batch, g: torch.Generator) -> Callable[[Predict, Tensor], Tensor]:
        """(predict, t []) -> plain losses [B], every sample of the batch at t, on noise of g."""
        x_0, y = batch
        eps = torch.randn(x_0.shape, generator=g, device=x_0.device)
        labels = self.condition(y, g)

        def losses(predict: Predict, t: Tensor) -> Tensor:
            t = t.expand(len(x_0))
            return self.denoise(predict, *self.noised(x_0, t, eps), t, labels)[0]

        return losses

    def gradient_norms(self, batch: Batch, g: torch.Generator, t: Tensor, of: Gradient) -> Tensor:
        """Norm of the gradient of the batch's loss where every sample is at t[k], [K]."""
        losses = self.losses_at(batch, g)

        def loss(predict: Predict, at: Tensor) -> Tensor:
            return losses(predict, at).mean() * self.weights[at]

        return (batched if of == "exact" else last_layer)(self.net, loss, t)

    def mean_norms(
        self, batch: Batch, words: tuple[int | str, ...], t: Tensor, of: Gradient
    ) -> Tensor:
        """`gradient_norms`, their mean over ranks."""
        g = generator(batch[0].device, *words, "score")
        norms = self.gradient_norms(batch, g, t, of)
        return self.everywhere(norms).view(-1, len(t)).mean(0)

    def on_validation_epoch_start(self) -> None:
        self.val_sums = torch.zeros(2, len(TENTHS), device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The uniformly weighted loss of the averaged net, on the same noise every time."""
        x_0, y = batch
        g = generator(x_0.device, self.seed, "val", self.global_rank, batch_idx)
        t, _ = Stratified(self.schedule).sample(len(x_0), g)
        eps = torch.randn(x_0.shape, generator=g, device=x_0.device)
        labels = y if self.conditional else None
        x_t, target = self.noised(x_0, t, eps)
        losses, pred = self.denoise(self.ema, x_t, target, t, labels)
        x_0_hat = self.objective.to_x_0(self.schedule, x_t, pred, t)
        metrics = {"val/loss": losses.mean(), **self.validation_metrics(x_0, x_0_hat)}
        self.log_dict(metrics, batch_size=len(x_0), sync_dist=True)
        self.val_sums += by_tenth(t, self.schedule.T, losses)

    def on_validation_epoch_end(self) -> None:
        total, count = self.trainer.strategy.reduce(self.val_sums, reduce_op="sum")
        tenths = zip(TENTHS, total / count, (count > 0).tolist(), strict=True)
        self.log_dict({f"val_loss/{n}": mean for n, mean, seen in tenths if seen}, sync_dist=True)

    def validation_metrics(self, x_0: Tensor, x_0_hat: Tensor) -> dict[str, Tensor]:
        """More to log from one denoising step, by kind of data."""
        return {}

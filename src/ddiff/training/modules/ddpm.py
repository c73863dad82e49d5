"""The training step as Lightning wants it. Glue only: the mathematics is in ddiff.diffusion."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ddiff.diffusion import Losses, Objective, Schedule, loss
from ddiff.diffusion.guidance import Net, without_some
from ddiff.diffusion.loss import AddNoise, errors, noised
from ddiff.diffusion.objectives import X0
from ddiff.diffusion.shortcuts import Shortcuts
from ddiff.diffusion.timesteps import Stratified, TimestepSampler
from ddiff.diffusion.timesteps.base import Gradient
from ddiff.nets.gradients import batched, last_layer
from ddiff.system.bounds import At, NotNegative, Share
from ddiff.system.errors import ConfigError
from ddiff.system.phases import phase
from ddiff.system.random import STREAM, generator, key
from ddiff.system.told import LONGEST
from ddiff.training.modules.learner import Batch, Learner
from ddiff.training.modules.tenths import TENTHS, by_tenth

# (x_0, coefficients [B, 4], samples [B], key, draw) -> (x_t, target)
NoiseOperation = Callable[[Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


class DDPM(Learner):
    """Unconditional denoising diffusion in 2D and 3D. Labels in the batch are ignored."""

    p_uncond = 0.0  # share of the labels that are dropped

    def __init__(
        self,
        schedule: Schedule,
        objective: Objective,
        timesteps: TimestepSampler,
        immiscible: bool = False,
        shortcuts: Share = 0.0,
        shortcuts_steps: Annotated[int, At(least=2, most=LONGEST)] = 16,
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
        self.immiscible = immiscible
        self.shortcuts: Shortcuts | None = None
        if shortcuts:
            self.shortcuts = Shortcuts(schedule, objective, shortcuts, shortcuts_steps)
        embedding = getattr(getattr(self.net, "condition", None), "embedding", None)
        told = self.net if embedding is None else embedding
        if shortcuts and not getattr(told, "shortcuts", embedding is None):
            raise ConfigError(
                "module.shortcuts: the net is not told how far a step goes; say "
                "net.embedding.shortcuts=true"
            )
        a, b = schedule.abar.sqrt(), (1 - schedule.abar).sqrt()
        table = torch.stack(torch.broadcast_tensors(a, b, *objective.mix(a, b)), dim=1)
        self.coefficients: Tensor  # [T + 1, 4]: x_t = alpha x_0 + sigma eps, target = e eps + s x_0
        self.register_buffer("coefficients", table.float(), persistent=False)
        self.add_noise: NoiseOperation | None = None  # of a backend that has its own

    def labels(self, y: Tensor | None) -> Tensor | None:
        """The labels that the net is told of; None where it knows none."""
        return y if self.conditional else None

    @property
    def widths(self) -> list[int]:
        """Widths of the parts of a row y; [] for a net without a layout."""
        layout = getattr(getattr(self.net, "condition", None), "layout", None)
        return list(layout.parts.values()) if layout else []

    def predictor(self, net: Net) -> Net:
        """`net` under this module's precision."""
        return self.precision.with_autocast(net, self.device)

    def losses(self, batch: Batch, g: torch.Generator, add_noise: AddNoise | None = None) -> Losses:
        """The loss of a training batch, its random numbers from `g` (or the noise's from
        `add_noise`)."""
        x_0, y = batch
        if self.immiscible:
            add_noise = partial(self.assigned_noise, g)
        return loss(
            self.predictor(self.net),
            x_0,
            self.labels(y),
            self.schedule,
            self.objective,
            self.timesteps,
            g,
            p_uncond=self.p_uncond,
            widths=self.widths,
            add_noise=add_noise,
            shortcuts=self.shortcuts,
            averaged=self.predictor(self.ema),
        )

    def native_noise(self, words: tuple[int | str, ...]) -> AddNoise | None:
        """The backend's own noise under this key, in one pass over memory; None where it has
        none."""
        operation = self.add_noise
        if operation is None or self.immiscible:
            return None

        def add_noise(x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            samples = torch.arange(len(x_0), device=x_0.device)
            return operation(x_0, self.coefficients[t], samples, key(*words), 0)

        return add_noise

    def assigned_noise(self, g: torch.Generator, x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and target, with noise of `g` that is assigned to the samples nearest to it."""
        eps = torch.randn(x_0.shape, generator=g, device=x_0.device)
        return noised(x_0, t, assigned(x_0, eps), self.schedule, self.objective)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        with phase("noise"):
            words, g = self.next_words(batch[0].device)
        with phase("timesteps"):
            number = self.batches_seen // self.world_size - 1  # of this batch on every rank
            self.timesteps.refresh(partial(self.mean_norms, batch, words), number)
        found = self.losses(batch, g, self.native_noise(words))
        self.latest["train/loss"] = found.total.detach()
        each = found.each.detach()
        short = len(each) - found.long
        if found.long:
            self.latest["train/loss_shortcuts"] = each[short:].mean()
        if self.timesteps.watches:
            with phase("timesteps"):
                t, losses = self.everywhere(found.t[:short]), self.everywhere(each[:short])
                self.timesteps.update(t, losses, self.objective.weights_at(self.schedule, t))
        return {"loss": found.total, "losses": each, "t": found.t, "short": short}

    def everywhere(self, value: Tensor) -> Tensor:
        """[B] of this rank -> [W B] of all, so that ranks agree."""
        if self.world_size == 1:
            return value
        gathered = self.all_gather(value)
        assert isinstance(gathered, Tensor)
        return gathered.flatten()

    def losses_at(self, batch: Batch, g: torch.Generator) -> Callable[[Net, Tensor], Tensor]:
        """(predict, t []) -> plain losses [B], every sample of the batch at t, on noise of g."""
        x_0, y = batch
        eps = torch.randn(x_0.shape, generator=g, device=x_0.device)
        y = self.labels(y)
        labels = None if y is None else without_some(y, self.p_uncond, g, self.widths)

        def losses(predict: Net, t: Tensor) -> Tensor:
            t = t.expand(len(x_0))
            x_t, target = noised(x_0, t, eps, self.schedule, self.objective)
            return errors(self.predictor(predict), x_t, target, t - 1, labels)[0]

        return losses

    def gradient_norms(self, batch: Batch, g: torch.Generator, t: Tensor, of: Gradient) -> Tensor:
        """Norm of the gradient of the batch's loss where every sample is at t[k], [K]."""
        losses = self.losses_at(batch, g)

        def at_one(predict: Net, at: Tensor) -> Tensor:
            return losses(predict, at).mean() * self.objective.weights_at(self.schedule, at)

        return (batched if of == "exact" else last_layer)(self.net, at_one, t)

    def mean_norms(
        self, batch: Batch, words: tuple[int | str, ...], t: Tensor, of: Gradient
    ) -> Tensor:
        """`gradient_norms`, their mean over ranks."""
        g = generator(batch[0].device, *words, "score")
        norms = self.gradient_norms(batch, g, t, of)
        return self.everywhere(norms).view(-1, len(t)).mean(0)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.val_tenths = torch.zeros(2, len(TENTHS), device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The uniformly weighted loss of the averaged net, on the same noise every time."""
        x_0, y = batch
        number = self.val_number(batch_idx)
        if number is None:
            return
        g = generator(x_0.device, self.seed, "val", STREAM, number)
        t, _ = Stratified(self.schedule).sample(len(x_0), g)
        eps = torch.randn(x_0.shape, generator=g, device=x_0.device)
        x_t, target = noised(x_0, t, eps, self.schedule, self.objective)
        losses, pred = errors(self.predictor(self.ema), x_t, target, t - 1, self.labels(y))
        x_0_hat = self.objective.to_x_0(self.schedule, x_t, pred, t)
        metrics = {"val/loss": losses.mean(), **self.validation_metrics(x_0, x_0_hat)}
        self.val_batches.append((number, len(x_0), metrics))
        self.val_tenths += by_tenth(t, self.schedule.T, losses)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        total, count = self.trainer.strategy.reduce(self.val_tenths, reduce_op="sum")
        tenths = zip(TENTHS, total / count, (count > 0).tolist(), strict=True)
        self.log_dict({f"val_loss/{n}": mean for n, mean, seen in tenths if seen}, sync_dist=True)

    def validation_metrics(self, x_0: Tensor, x_0_hat: Tensor) -> dict[str, Tensor]:
        """More to log from one denoising step, by kind of data."""
        return {}


def assigned(x_0: Tensor, eps: Tensor) -> Tensor:
    """eps [B, ...] in the order that makes sum |x_0 - eps|^2 over the batch least.

    Immiscible diffusion (Li et al. 2024): each sample is mixed with noise that lies near it. The
    norms of x_0 and eps do not depend on the order, so only their products are compared.
    """
    products = x_0.flatten(1) @ eps.flatten(1).T
    _, order = linear_sum_assignment(products.double().cpu().numpy(), maximize=True)
    return eps[torch.from_numpy(order).to(eps.device)]


class ConditionalDDPM(DDPM):
    """Trains with labels, each replaced by "no label" with probability `p_uncond`."""

    conditional = True

    def __init__(
        self, p_uncond: Share = 0.1, shortcuts_guidance: NotNegative = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= p_uncond <= 1:
            raise ConfigError(f"module.p_uncond must lie in 0..1, not {p_uncond}")
        self.p_uncond = p_uncond
        if self.shortcuts:
            self.shortcuts = replace(self.shortcuts, guidance=shortcuts_guidance)


class VoxelDDPM(DDPM):
    """Unconditional volumes, inside +1 and outside -1."""

    dims = 3

    def validation_metrics(self, x_0: Tensor, x_0_hat: Tensor) -> dict[str, Tensor]:
        """Intersection over union of the solid and of what one denoising step makes of it."""
        true, guess = (x_0 > 0).flatten(1), (x_0_hat > 0).flatten(1)
        union = (true | guess).sum(1).clamp(min=1)
        return {"val/iou": ((true & guess).sum(1) / union).mean()}

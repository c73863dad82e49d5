"""A net that learns, and what makes its training exact: averaged weights, keys, rates."""

import copy
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ddiff.system.bounds import Share
from ddiff.system.checkpoints import batches_of_all_ranks
from ddiff.system.phases import phase
from ddiff.system.precision import Precision
from ddiff.system.random import STREAM, generator, seed
from ddiff.training.ranks import Agreement
from ddiff.training.updates import average, clip, decay_at

Batch = tuple[Tensor, Tensor | None]  # x_0 [B, C, *S] in [-1, 1], y [B], [B, K] or None


class Learner(LightningModule):
    """`ema` is the averaged copy of `net`, used to validate; both are in the state dict."""

    conditional = False  # whether it needs labels
    generative = True  # whether it makes samples
    dims: int | None = None  # 3: for volumes alone
    inputs: tuple[str, ...] = ("x", "t", "y")  # of the net
    suited = ("a net that is told the time", "net=unet")  # in words, and an example
    instead = ""  # what to say where samples are asked of a module that makes none

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_schedule: Callable[[Optimizer], LambdaLR],
        precision: Precision,
        seed: int,
        ema_decay: Share = 0.999,
    ) -> None:
        super().__init__()
        self.net = net
        self.ema = copy.deepcopy(net).requires_grad_(False).eval()
        self.optimizer, self.lr_schedule = optimizer, lr_schedule
        self.precision = precision
        self.seed, self.ema_decay = seed, ema_decay
        self.latest: dict[str, Tensor] = {}  # of the last step, by tag; read when it is reported
        self.batches_seen = 0  # micro-batches of all ranks
        self.val_batches: list[tuple[int, int, dict[str, Tensor]]] = []  # number, samples, means
        self.ranks = Agreement()

    def next_words(self, device: torch.device) -> tuple[tuple[int | str, ...], torch.Generator]:
        """The key of this micro-batch, and its generator; dropout is seeded from it.

        The key is the micro-batch's number in the stream that all ranks share: rank r of W has
        number r of the next W.
        """
        words = (self.seed, "train", STREAM, self.batches_seen + self.global_rank)
        self.batches_seen += self.world_size
        seed(device, "dropout", *words)
        return words, generator(device, *words)

    @property
    def world_size(self) -> int:
        return self._trainer.world_size if self._trainer else 1

    def make_optimizer(self) -> Optimizer:
        """The optimiser at its full rate."""
        self.parameters_of_net: list[Tensor] = list(self.net.parameters())
        self.averages: list[Tensor] = list(self.ema.parameters())
        return self.optimizer(self.net.parameters())

    def update(
        self,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        max_norm: float | None,
        step: int,
    ) -> None:
        """Finish optimiser step `step` after its backward passes, where no trainer does.

        Clip, step, clear the gradients, average the weights.
        """
        scaler.unscale_(optimizer)
        clip(self.parameters_of_net, max_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        average(self.averages, self.parameters_of_net, decay_at(step, self.ema_decay))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        schedule = {"scheduler": self.lr_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            gradient_clip_val = None
        self.latest["train/grad_norm"] = clip(self.parameters_of_net, gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.trainer.global_step + 1
        super().optimizer_step(*args, **kwargs)
        with phase("EMA"):
            average(self.averages, self.parameters_of_net, decay_at(step, self.ema_decay))

    def on_validation_epoch_start(self) -> None:
        self.val_batches = []

    def val_number(self, batch_idx: int) -> int | None:
        """Number of this rank's validation batch among those of all; None if it only fills up."""
        number = batch_idx * self.world_size + self.global_rank
        if self.world_size == 1:
            return number
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        return number if number < data.num_val_batches else None

    def on_validation_epoch_end(self) -> None:
        """Logs the mean of every figure over the samples of all ranks, added up in the order of one
        rank. Lightning's own mean over ranks would round the numbers of samples."""
        own = [
            (number, count, {name: float(mean) for name, mean in means.items()})
            for number, count, means in self.val_batches
        ]
        sums: dict[str, tuple[Tensor, int]] = {}
        for _, count, means in sorted(chain.from_iterable(self.ranks.gathered(own))):
            for name, mean in means.items():
                total, samples = sums.get(name, (torch.zeros(()), 0))
                sums[name] = total + torch.tensor(mean) * count, samples + count
        means = {name: (total / n).to(self.device) for name, (total, n) in sums.items()}
        self.log_dict(self.figures(means), sync_dist=True)

    def figures(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is logged of the means over the validation set."""
        return means

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches_seen"] = self.batches_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches_seen = batches_of_all_ranks(checkpoint)
        self._count_from(checkpoint["global_step"], checkpoint["loops"]["fit_loop"])
        self._obey_config(checkpoint["optimizer_states"][0], checkpoint["lr_schedulers"][0])

    def _count_from(self, step: int, loops: dict[str, Any]) -> None:
        """Lightning's count of this rank's batches, which says where steps and validations end, is
        that of a training which always had today's accumulation."""
        progress = loops["epoch_loop.batch_progress"]
        ready = progress["current"]["ready"]
        added = step * self.trainer.accumulate_grad_batches - ready
        for counts in (progress["current"], progress["total"]):
            counts.update({name: number + added for name, number in counts.items()})

    def _obey_config(self, optimizer_state: dict[str, Any], lr_state: dict[str, Any]) -> None:
        """Rates and the like are this config's, moments the checkpoint's; under an unchanged config
        that alters no bit."""
        optimizer = self.optimizer(self.net.parameters())
        factor = self.lr_schedule(optimizer).lr_lambdas[0](lr_state["last_epoch"])
        for saved, group in zip(
            optimizer_state["param_groups"], optimizer.param_groups, strict=True
        ):
            options = {name: value for name, value in group.items() if name != "params"}
            saved.update(options, lr=group["initial_lr"] * factor)
        lr_state["base_lrs"] = [g["initial_lr"] for g in optimizer.param_groups]
        lr_state["_last_lr"] = [g["lr"] for g in optimizer_state["param_groups"]]

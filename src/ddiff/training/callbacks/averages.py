"""Snapshots of two power averages of the weights, from which others are made after training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ddiff.config.options import Steps
from ddiff.nets.averages import decay_of, power_of
from ddiff.system.bounds import Filled
from ddiff.system.files import replacing
from ddiff.training.callbacks.order import When
from ddiff.training.updates import average


class PowerAverages(Callback):
    """Keeps power averages of the net, and writes them to averages/ every `every` steps.

    They are in every checkpoint too, as they are at its step.
    """

    when = When.MEASURE

    def __init__(
        self,
        run_dir: Path,
        every: Steps,
        lengths: Annotated[Sequence[float], Filled()] = (0.05, 0.1),
    ) -> None:
        self.folder = run_dir / "averages"
        self.every = every
        self.powers = [power_of(length) for length in lengths]
        self.since: int | None = None  # the step before the first one that is averaged
        self.step = 0  # the last one that is
        self.values: list[dict[str, Tensor]] = []  # one for each power

    def state_dict(self) -> dict[str, Any]:
        return {
            "powers": self.powers, "since": self.since, "step": self.step, "values": self.values
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["powers"] == self.powers:
            self.since, self.step = state_dict["since"], state_dict["step"]
            self.values = state_dict["values"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        net: Any = pl_module.net
        parameters = dict(net.named_parameters())
        if self.since is None:
            self.since = self.step = trainer.global_step
            self.values = [
                {name: value.detach().clone() for name, value in parameters.items()}
                for _ in self.powers
            ]
        self.values = [
            {name: value.to(parameters[name]) for name, value in values.items()}
            for values in self.values
        ]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:  # between accumulated batches
            return
        assert self.since is not None
        self.step = trainer.global_step
        net: Any = pl_module.net
        parameters = list(net.parameters())
        for power, values in zip(self.powers, self.values, strict=True):
            average(list(values.values()), parameters, decay_of(self.step - self.since, power))
        if self.step % self.every == 0 and trainer.is_global_zero:
            with replacing(self.folder / f"step_{self.step:06d}.pt") as file:
                torch.save(self.state_dict(), file)

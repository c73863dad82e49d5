"""Reports of the timestep sampler: its law, its scores, and the losses by tenth of t."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ddiff.diffusion.timesteps import TimestepSampler, effective_sample_size
from ddiff.training.callbacks.order import When
from ddiff.training.loggers import log_figures, log_picture
from ddiff.training.modules import DDPM
from ddiff.training.modules.tenths import TENTHS, by_tenth

Tenths = list[float | None]


@dataclass(frozen=True)
class Report:
    """The sampler at one step. A tenth that was not measured is None."""

    sampler: str
    unbiased: bool
    effective_sample_size: float
    exploration: float
    law: Tensor  # p(t) [T]
    scores: Tensor | None  # [T]
    p: Tenths  # mass
    score: Tenths | None  # mean
    train_loss: Tenths  # mean since the last validation
    val_loss: Tenths

    def summary(self) -> dict[str, Any]:
        """The report as in metrics.json."""
        return {
            "sampler": self.sampler,
            "unbiased": self.unbiased,
            "effective_sample_size": self.effective_sample_size,
            "exploration": self.exploration,
            "tenths": {
                name: getattr(self, name) for name in ("p", "score", "train_loss", "val_loss")
            },
        }

    def title(self) -> str:
        kind = "unbiased" if self.unbiased else "objective-changing"
        return (
            f"{self.sampler}, {kind}, effective sample size {self.effective_sample_size:.2f}, "
            f"exploration {self.exploration:.2f}"
        )


class Timesteps(Callback):
    """Reports after every validation, whose losses belong to it, and at the end: scalars, a picture
    for the loggers, and the same picture as <run>/timesteps.png."""

    when, generative = When.MEASURE, True

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "timesteps.png"
        self.sums = torch.zeros(2, len(TENTHS))  # of this rank since the last validation
        self.reported = -1  # at which step
        self.report: Report | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._rank, self._world_size = trainer.global_rank, trainer.world_size
        self._gather = pl_module.all_gather

    def _ranks(self) -> Tensor:
        """The sums of every rank, [W, 2, 10]. All ranks must call it."""
        if self._world_size == 1:
            return self.sums[None]
        gathered = self._gather(self.sums)
        assert isinstance(gathered, Tensor)
        return gathered

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._ranks().cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = state_dict["sums"]
        if len(ranks) == self._world_size:
            self.sums = ranks[self._rank]
        elif self._rank == 0:  # another number of ranks: the first takes it all
            self.sums = ranks.sum(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sums = self.sums.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DDPM)
        short = outputs.get("short")  # the others learned long steps
        t, losses = outputs["t"][:short], outputs["losses"][:short]
        self.sums += by_tenth(t, pl_module.schedule.T, losses)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, pl_module)
        self.sums = torch.zeros_like(self.sums)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.reported != trainer.global_step:  # and no new sums: a longer training goes on here
            self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sums = self._ranks().sum(0)
        self.reported = trainer.global_step
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, DDPM)
        val = [trainer.callback_metrics.get(f"val_loss/{name}") for name in TENTHS]
        val_loss = [None if loss is None else float(loss) for loss in val]
        self.report = report_on(pl_module.timesteps, sums, val_loss)
        show(self.report, trainer, self.path)


def report_on(sampler: TimestepSampler, sums: Tensor, val_loss: Tenths) -> Report:
    """`sums` are of the training losses and how many there were, [2, 10]."""
    law, scores = sampler.law().cpu(), sampler.scores()
    scores = None if scores is None else scores.cpu()
    t = torch.arange(1, sampler.T + 1)
    return Report(
        sampler=type(sampler).__name__,
        unbiased=sampler.unbiased,
        effective_sample_size=float(effective_sample_size(sampler)),
        exploration=float(sampler.exploration()),
        law=law,
        scores=scores,
        p=by_tenth(t, sampler.T, law.double())[0].tolist(),
        score=None if scores is None else means(by_tenth(t, sampler.T, scores.double())),
        train_loss=means(sums),
        val_loss=val_loss,
    )


def means(sums: Tensor) -> Tenths:
    total, count = sums.tolist()
    return [x / n if n else None for x, n in zip(total, count, strict=True)]


def show(report: Report, trainer: Trainer, path: Path) -> None:
    """Scalars and a picture to the loggers, and the picture to `path`."""
    from ddiff.pages.plotting import timesteps_picture
    from ddiff.pages.view import save_png

    scalars = {
        "timesteps/effective_sample_size": report.effective_sample_size,
        "timesteps/exploration": report.exploration,
    }
    curves = {"p": report.p, "score": report.score, "loss": report.train_loss}
    for curve, values in curves.items():
        for name, value in zip(TENTHS, values or (), strict=values is not None):
            if value is not None:
                scalars[f"timesteps_{curve}/{name}"] = value
    step = trainer.global_step
    log_figures(trainer, scalars, step)
    picture = timesteps_picture(
        f"{report.title()}, step {step}",
        report.law.numpy(),
        None if report.scores is None else report.scores.numpy(),
        {"training": report.train_loss, "validation": report.val_loss},
    )
    save_png(picture, path)
    log_picture(trainer, "timesteps", picture, step)

"""Clipping, the optimiser's step and averaged weights, alone and in Lightning's loop."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.callbacks import Progress
from ddiff.training.loggers import TensorBoard
from ddiff.training.modules import Learner
from ddiff.training.updates import average, clip, decay_at
from tests.support.runs import differences, scalars

TINY = (
    "experiment=digits_ddpm",
    "net=simple2d",
    "net.channels=4",
    "trainer=cpu",
    "budget.batch_size=8",
    "budget.log_every=1",
    "trainer.limit_val_batches=1",
    "lr_schedule.warmup_steps=3",
    "optimizer.lr=1e-3",
    "optimizer.eps=1e-3",  # a gradient of nearly 0 would turn its rounding into a whole step
    "module.ema_decay=0.5",
)
LOOPS = {
    "clipped, AdamW": ("trainer.gradient_clip_val=0.3", "optimizer.weight_decay=0.1"),
    "not clipped, accumulated, Adam": (
        "trainer.gradient_clip_val=null",
        "trainer.accumulate_grad_batches=2",
        "optimizer=adam",
        "+optimizer.weight_decay=0.1",
    ),
    "clipped by value": (
        "trainer.gradient_clip_val=1e-3",
        "+trainer.gradient_clip_algorithm=value",
    ),
    "fp16": ("precision=fp16",),
}


def fitted(
    folder: Path, *options: str, steps: int = 6, resume: Path | None = None
) -> tuple[Trainer, Learner]:
    cfg = train_options(*TINY, f"budget.max_steps={steps}", *options)
    data = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    precision = build_precision(cfg.precision, torch.device("cpu"))
    module = build_module(cfg, precision)
    callbacks = [Progress(cfg.data.batch_size, 1, 0.0)]  # logs the norms
    trainer = build_trainer(cfg, folder, TensorBoard(folder), callbacks, precision)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer, module


def state(trainer: Trainer, module: Learner) -> dict:
    return {"weights": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}


W = torch.ones(3)


def norms(trainer: Trainer, module: Learner) -> dict[int, float]:
    return scalars(Path(trainer.default_root_dir), "train/grad_norm")


def test_a_long_gradient_is_cut_and_its_norm_returned() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(W)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip(parameters, None) == 5
    assert parameters[0].grad.tolist() == [3, 0]
    assert clip(parameters, 10.0) == 5
    assert parameters[1].grad.tolist() == [4]
    assert clip(parameters, 0.5) == 5
    assert parameters[0].grad.tolist() == pytest.approx([0.3, 0], rel=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.4], rel=1e-5)
    assert parameters[2].grad is None


def test_averages_move_by_their_decay() -> None:
    averages, parameters = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -2.0])]
    average(averages, parameters, 0.75)
    assert averages[0].tolist() == [1.5, 1.0]
    assert parameters[0].tolist() == [3, -2]


def test_a_young_average_forgets_its_start() -> None:
    assert [decay_at(step, 0.9) for step in (0, 1, 2)] == [0.1, 2 / 11, 3 / 12]
    assert decay_at(80, 0.9) == 0.9
    assert decay_at(10**6, 0.998) == 0.998


@pytest.mark.parametrize("loop", LOOPS)
def test_resumes_bit_for_bit(loop: str, tmp_path: Path, monkeypatch) -> None:
    """Weights, averages, the optimiser's state and the logged norms; of float16 some steps
    overflow, and are skipped."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**24))
    path = tmp_path / "middle.ckpt"
    trainer, _ = fitted(tmp_path / "half", *LOOPS[loop], steps=3)
    trainer.save_checkpoint(path)
    named = {"ddiff": {"config": {}, "overrides": []}}
    torch.save(torch.load(path, weights_only=True) | named, path)
    whole = fitted(tmp_path / "whole", *LOOPS[loop])
    again = fitted(tmp_path / "again", *LOOPS[loop], resume=path)
    a, b = state(*whole), state(*again)
    assert differences(a, b) == []
    if loop != "fp16":  # where they are not numbers
        assert {step: norms(*whole)[step] for step in range(3, 6)} == norms(*again)
    (steps,) = {float(one["step"]) for one in a["optimizer"]["state"].values()}
    assert 0 < steps < 6 if loop == "fp16" else steps == 6
    weights = a["weights"]
    apart = [(weights[k] - weights[f"net.{k[4:]}"]).abs().max() for k in weights if k[:4] == "ema."]
    assert max(apart) > 1e-4


def test_the_loop_clips_to_the_option(tmp_path: Path) -> None:
    """SGD with a rate of 1 moves the weights by the gradient: by the limit, and no more."""
    sgd = ("optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps",
           "~optimizer.weight_decay", "~optimizer.fused", "optimizer.lr=1",
           "lr_schedule=warmup_constant", "lr_schedule.warmup_steps=0")  # fmt: skip
    _, first = fitted(tmp_path / "one", *sgd, "trainer.gradient_clip_val=1e-3", steps=1)
    _, second = fitted(tmp_path / "two", *sgd, "trainer.gradient_clip_val=1e-3", steps=2)
    moved = [
        (b - a).detach()
        for a, b in zip(first.net.parameters(), second.net.parameters(), strict=True)
    ]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(1e-3, rel=1e-2)

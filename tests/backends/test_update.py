"""The fused update is torch's clipping, optimiser and averaging, and lives in Lightning's loop."""

from functools import cache, partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch import Trainer
from omegaconf import DictConfig
from torch import nn

from ddiff import build
from ddiff.backends import Eager, Native
from ddiff.backends.update import FusedUpdate, Update
from ddiff.callbacks import Progress
from ddiff.config import resolved
from ddiff.modules import Learner
from ddiff.modules.plugins import Board
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


@cache
def composed(*options: str) -> DictConfig:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        return resolved(compose("train", [*TINY, *options]))


def fitted(
    folder: Path, backend: Eager | Native, *options: str, steps: int = 6, resume: Path | None = None
) -> tuple[Trainer, Learner]:
    """A training of the net as it is, with the update of `backend` alone."""
    cfg = composed(f"budget.max_steps={steps}", *options).copy()
    data = build.build(cfg.data)
    data.setup("fit")
    build.fill_in_data_facts(cfg, data)
    precision = build.build_precision(cfg, torch.device("cpu"))
    module = build.build_module(cfg, precision)
    module.updates = backend.update
    callbacks = [Progress(cfg.data.batch_size, 1, 0.0)]  # logs the norms
    trainer = build.build_trainer(cfg, folder, Board(folder), callbacks, precision)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer, module


def state(trainer: Trainer, module: Learner) -> dict:
    return {"weights": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}


def norms(trainer: Trainer, module: Learner) -> dict[int, float]:
    return scalars(Path(trainer.default_root_dir), "train/grad_norm")


def close(a: object, b: object) -> None:
    """Nested structures of the same form, numbers equal to float32 rounding."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loop", LOOPS)
def test_trains_as_torch_does(loop: str, tmp_path: Path, monkeypatch) -> None:
    """Weights, averages, the optimiser's state and the logged norms, after six steps; of float16
    some overflow, and are skipped."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**24))
    made = [
        fitted(tmp_path / str(i), backend, *LOOPS[loop])
        for i, backend in enumerate((Eager(), Native()))
    ]
    assert [type(module.update) for _, module in made] == [Update, FusedUpdate]
    eager, native = (state(*one) for one in made)
    close(native, eager)
    if loop != "fp16":  # where they are not numbers
        close(norms(*made[1]), norms(*made[0]))
        assert len(norms(*made[0])) == 6
    (steps,) = {float(one["step"]) for one in eager["optimizer"]["state"].values()}
    assert 0 < steps < 6 if loop == "fp16" else steps == 6
    weights = eager["weights"]
    apart = [(weights[k] - weights[f"net.{k[4:]}"]).abs().max() for k in weights if k[:4] == "ema."]
    assert max(apart) > 1e-4


def test_resumes_bit_for_bit_and_from_the_other_backend(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    for backend, other in ((Native(), Eager()), (Eager(), Native())):
        name = type(backend).__name__
        trainer, _ = fitted(tmp_path / f"{name}_half", backend, steps=3)
        trainer.save_checkpoint(path)
        named = {"ddiff": {"config": {}, "overrides": []}}
        torch.save(torch.load(path, weights_only=True) | named, path)
        whole = fitted(tmp_path / f"{name}_whole", backend)
        again = fitted(tmp_path / f"{name}_again", backend, resume=path)
        across = fitted(tmp_path / f"{name}_across", other, resume=path)
        a, b, c = (state(*one) for one in (whole, again, across))
        assert differences(a, b) == []
        close(c, a)
        assert {step: norms(*whole)[step] for step in range(3, 6)} == norms(*again)


def test_what_has_no_native_update_trains_by_torch() -> None:
    net = nn.Linear(2, 2)
    parameters = list(net.parameters())
    ones = (
        torch.optim.SGD(parameters, 0.1),
        torch.optim.Adam(parameters, amsgrad=True, fused=True),
        torch.optim.AdamW(parameters, maximize=True, fused=True),
        torch.optim.Adam(parameters),  # fused=False or null asks for torch's other ways
    )
    assert {type(Native().update(one, net, net)) for one in ones} == {Update}


def test_parameters_without_a_gradient_only_move_their_averages() -> None:
    results = []
    for backend in (Eager(), Native()):
        torch.manual_seed(0)
        net, ema = (nn.ModuleList(nn.Linear(3, 3) for _ in range(2)) for _ in range(2))
        update = backend.update(torch.optim.Adam(net.parameters(), 0.1, fused=True), net, ema)
        update.decay = 0.75
        for used in (0, 1, 0):
            update.optimizer.zero_grad()
            net[used](torch.ones(2, 3)).square().sum().backward()
            assert update.clip(0.5) > 0.5
            update.optimizer.step()
            update.average()
        results.append((net.state_dict(), ema.state_dict(), update.optimizer.state_dict()))
    close(results[1], results[0])
    assert {float(one["step"]) for one in results[1][2]["state"].values()} == {2.0, 1.0}

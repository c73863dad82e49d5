"""The dry run's peak against the same count over what Lightning really does."""

from pathlib import Path

import pytest
import torch

from ddiff.build import build_plan
from ddiff.config.targets import build
from ddiff.memory import Tally, plan_of, predicted
from ddiff.sampling.conditions import labels_for
from ddiff.sampling.generation import Generation
from ddiff.training.building import build_trainer
from ddiff.training.callbacks import Checkpoints, StopOnNaN
from ddiff.training.loggers import TensorBoard
from ddiff.training.modules import DDPM
from tests.memory.subjects import ADAM, CPU, IN_2D, IN_3D, LARGE, built

CASES = {
    "2D": IN_2D,
    "3D": IN_3D,
    "3D bf16": (*IN_3D, ADAM, "data.size=8", "precision=bf16"),
    "2D checkpointed": (*IN_2D, "net.checkpoint_levels=[0,1]"),
    "3D checkpointed": (*IN_3D, ADAM, "net.checkpoint_levels=[0]"),
    "2D in parts": (*IN_2D, "budget.batch_size=8", "trainer.accumulate_grad_batches=3"),
    "3D eager": (*IN_3D, ADAM, "backend=eager"),
    "conditional": ("experiment=digits_cfg", *IN_2D[1:], "precision=bf16", "net.dropout=0.1"),
    "patches": (*IN_3D, ADAM, "net.patch_size=2", "net.input_skip=true"),
    "all timesteps": (
        *IN_2D,
        "budget.batch_size=2",
        "schedule.T=10",
        "solver.num_steps=5",
        "timesteps=all",
    ),
    "scores": (*IN_2D, "timesteps=online_topk_exact", "timesteps.refresh_every=1"),
}


def peaks(*overrides: str) -> dict[str, float]:
    cfg, _, module, _ = built(*overrides)
    return {peak.phase: peak.total for peak in predicted(cfg, module, CPU)}


QUICK = ("2D", "3D bf16", "conditional")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_the_predicted_peak_is_that_of_the_trainer(name: str, tmp_path: Path) -> None:
    three = ("budget.max_steps=3", "budget.log_every=1", "trainer.limit_val_batches=0")
    cfg, data, module, precision = built(*CASES[name], *three)
    (expected,) = [p.total for p in predicted(cfg, module, CPU) if p.phase == "training"]
    nan = StopOnNaN()
    callbacks = [nan, Checkpoints(tmp_path, {}, 2, nan)]
    trainer = build_trainer(cfg, tmp_path, TensorBoard(tmp_path), callbacks, precision)
    tally = Tally()
    tally.name("weights", [*module.parameters(), *module.buffers()])
    with tally:
        tally.begin("all")
        trainer.fit(module, data)
    (peak,) = tally.peaks()
    assert abs(peak.total / expected - 1) < 0.02


@pytest.mark.parametrize("name", ["2D", "3D eager", "conditional"])
def test_the_predicted_peak_of_sampling_is_that_of_the_loop(name: str) -> None:
    cfg, _, module, precision = built(*CASES[name], "sampling.num_samples=6", "solver.num_steps=5")
    assert isinstance(module, DDPM)
    (expected,) = [p for p in predicted(cfg, module, CPU) if p.phase == "sampling"]
    generation = Generation(
        module.ema,
        tuple(cfg.net.shape),
        cfg.net.num_classes,
        module.objective,
        build_plan(cfg.solver, module.schedule),
        build(cfg.guidance),
        precision,
        cfg.seed,
    )
    tally = Tally()
    tally.name("weights", module.ema.parameters())
    with tally:
        tally.begin("all")
        generation.batch(range(6), labels_for("auto", 6, cfg.net.num_classes))
    (peak,) = tally.peaks()
    found, wanted = peak.parts["activations"], expected.parts["activations"]
    assert abs(found / wanted - 1) < 0.01


def test_what_is_held_is_what_the_net_has() -> None:
    cfg, _, module, _ = built(*IN_2D)
    parts = max(predicted(cfg, module, CPU), key=lambda peak: peak.phase == "sampling").parts
    size = 4 * sum(p.numel() for p in module.net.parameters())
    count = len(list(module.net.parameters()))
    assert parts["averaged weights"] == parts["gradients"] == size
    assert parts["optimiser"] == 2 * size + 4 * count  # two moments, and a step number each
    assert parts["batch"] == 2 * (16 * 64 * 4 + 16 * 8)  # now, and the loader's next


@pytest.mark.slow
def test_levers_lower_the_peak_and_nothing_is_left_behind() -> None:
    whole = peaks(*LARGE, "backend=eager")
    assert peaks(*LARGE, "net.checkpoint_levels=[0]")["training"] < 0.95 * whole["training"]
    parts = peaks(*LARGE, "budget.batch_size=1", "trainer.accumulate_grad_batches=4")
    assert parts["training"] < 0.5 * whole["training"]
    assert peaks(*LARGE, "precision=bf16")["training"] < 0.7 * whole["training"]
    assert peaks(*LARGE, "backend=native")["training"] < whole["training"]
    assert peaks(*LARGE, "net.patch_size=2")["training"] < 0.3 * whole["training"]


def test_the_dry_run_changes_nothing() -> None:
    cfg, _, module, _ = built(*IN_2D)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    predicted(cfg, module, CPU)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.batches_seen == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert plan_of(cfg, module) is not None


@pytest.mark.slow
def test_it_takes_no_memory_of_that_size() -> None:
    """A training of terabytes is predicted on this machine."""
    words = ("data.size=512", "net.patch_size=1", "net.input_skip=false", "budget.batch_size=16")
    words += (ADAM, "net.num_blocks=1", "precision=fp32", "trainer.limit_val_batches=0")
    few = ("data.num=16", "data.num_val=1", "sampling.num_samples=1")
    cfg, _, module, _ = built(*words, *few)
    training = next(p for p in predicted(cfg, module, CPU) if p.phase == "training")
    assert training.total > 1e12

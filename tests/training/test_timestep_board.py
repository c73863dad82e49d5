"""What a run shows of its timestep sampler."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from ddiff.build import build
from ddiff.diffusion.schedules import constant
from ddiff.diffusion.timesteps import (
    Stratified,
    TimestepSampler,
    Uniform,
    effective_sample_size,
)
from ddiff.system.random import generator
from ddiff.training.callbacks.timesteps import means
from ddiff.training.modules.tenths import TENTHS
from tests.support.runs import TINY, checkpoint, ddiff, ddiff_many, differences, job, scalars

COMMON = ("experiment=digits_ddpm", *TINY, "budget.batch_size=16", "trainer.limit_val_batches=2")
SAMPLERS = {
    "online_topk": ("timesteps.bins=5",),  # few enough that all are seen in a short run
    "stratified_importance": ("timesteps.bins=5",),
    "speed": ("schedule=linear",),
    "uniform": (),
}
ACCUMULATED = ("schedule.T=4", "trainer.accumulate_grad_batches=2", "budget.max_steps=10")
STEPS, B = 16, 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each sampler; `accumulated` has four timesteps and ends between validations."""
    cwd = tmp_path_factory.mktemp("runs")
    jobs = [
        job("train", *COMMON, f"timesteps={n}", *more, f"budget.max_steps={STEPS}", f"run_dir={n}")
        for n, more in SAMPLERS.items()
    ]
    jobs += [job("train", *COMMON, *ACCUMULATED, "run_dir=accumulated")]
    done = ddiff_many(jobs, cwd)
    assert [(d.status, d.err) for d in done] == [(0, "")] * len(done)
    (cwd / "out").write_text(done[0].out)
    return cwd


def sampler_of(run: Path) -> TimestepSampler:
    """The run's sampler as it was at the end."""
    saved = checkpoint(run)
    cfg = OmegaConf.create(saved["ddiff"]["config"])
    sampler = build(cfg.timesteps, schedule=build(cfg.schedule))
    state = {k: v for k, v in saved["state_dict"].items() if k.startswith("timesteps.")}
    sampler.load_state_dict({k.removeprefix("timesteps."): v for k, v in state.items()})
    return sampler


def tags(run: Path) -> list[str]:
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    return board.Tags()["scalars"]


def at_end(run: Path, group: str, step: int = STEPS) -> list[float | None]:
    """The last values of a group of tenths."""
    there = tags(run)
    return [scalars(run, f"{group}/{n}")[step] if f"{group}/{n}" in there else None for n in TENTHS]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())["timesteps"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_law_and_what_weighting_leaves(name: str, runs: Path) -> None:
    sampler, shown = sampler_of(runs / name), summary(runs / name)
    law = sampler.law()
    p = law.double().view(10, 100).sum(1).tolist()
    assert sum(p) == pytest.approx(1, abs=1e-5)
    assert (max(p) - min(p) > 0.01) == (name != "uniform")
    assert shown["tenths"]["p"] == pytest.approx(p, abs=1e-7)
    assert at_end(runs / name, "timesteps_p") == pytest.approx(p, abs=1e-7)

    ess = shown["effective_sample_size"]
    logged = scalars(runs / name, "timesteps/effective_sample_size")
    assert set(logged) == {8, 16}
    assert logged[16] == pytest.approx(ess)
    assert ess == pytest.approx(float(effective_sample_size(sampler)), abs=1e-6)
    weighted = name in ("stratified_importance", "speed")
    assert (0 < ess < 0.999) if weighted else ess == pytest.approx(1, abs=1e-5)
    assert shown["sampler"] == type(sampler).__name__
    assert shown["unbiased"] == (name in ("stratified_importance", "uniform"))
    explored = {"online_topk": 0.1, "stratified_importance": 0.2, "speed": 0, "uniform": 0}
    assert shown["exploration"] == pytest.approx(explored[name])
    assert scalars(runs / name, "timesteps/exploration")[16] == pytest.approx(explored[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_scores_are_shown_where_there_are_any(name: str, runs: Path) -> None:
    scores = sampler_of(runs / name).scores()
    shown = summary(runs / name)["tenths"]["score"]
    if scores is None:
        assert shown is None
        assert at_end(runs / name, "timesteps_score") == [None] * 10
        return
    expected = scores.view(10, 100).mean(1).tolist()
    assert max(expected) > 1.1 * min(expected) > 0
    assert shown == pytest.approx(expected, rel=1e-5)
    assert at_end(runs / name, "timesteps_score") == pytest.approx(expected, rel=1e-5)


def counted(draws: list[Tensor], T: int = 1000) -> Tensor:
    """How many of the draws are in each tenth, [10]."""
    return torch.bincount((torch.cat(draws) - 1) * 10 // T, minlength=10).double()


def weighted_mean(values: list[float | None], counts: Tensor) -> float:
    assert [v is None for v in values] == [n == 0 for n in counts.tolist()]
    filled = torch.tensor([v or 0.0 for v in values], dtype=torch.float64)
    return float((filled * counts).sum() / counts.sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_validation_by_tenth_averages_to_the_validation_loss(name: str, runs: Path) -> None:
    sampler = Stratified(constant(1000, 0.01))
    draws = [sampler.sample(B, generator("cpu", 0, "val", 0, i))[0] for i in range(2)]
    counts = counted(draws)
    assert len(counts.unique()) > 1
    for step in (7, 15):  # Lightning's count of a validation after 8 and 16 steps
        tenths = at_end(runs / name, "val_loss", step)
        assert weighted_mean(tenths, counts) == pytest.approx(
            scalars(runs / name, "val/loss")[step], abs=1e-6
        )
    assert summary(runs / name)["tenths"]["val_loss"] == pytest.approx(tenths)


@pytest.mark.slow
def test_training_by_tenth_averages_to_the_training_losses_since_validation(runs: Path) -> None:
    logged = scalars(runs / "uniform", "train/loss")  # under uniform all weights are 1
    sampler = Uniform(constant(1000, 0.01))
    draws = [sampler.sample(B, generator("cpu", 0, "train", 0, i))[0] for i in range(STEPS)]
    for step in (8, 16):
        tenths = at_end(runs / "uniform", "timesteps_loss", step)
        since = range(step - 8, step)
        mean = sum(logged[i] for i in since) / 8
        counts = counted([draws[i] for i in since])
        assert weighted_mean(tenths, counts) == pytest.approx(mean, abs=1e-6)
    assert summary(runs / "uniform")["tenths"]["train_loss"] == pytest.approx(tenths)


@pytest.mark.slow
def test_four_timesteps_and_accumulated_batches(runs: Path) -> None:
    run, tenths = runs / "accumulated", summary(runs / "accumulated")["tenths"]
    inhabited = [0, 2, 5, 7]  # of t = 1..4
    assert tenths["p"] == [0.25 * (i in inhabited) for i in range(10)]
    for name in ("train_loss", "val_loss"):
        assert [i for i in range(10) if tenths[name][i] is not None] == inhabited
    assert set(scalars(run, "timesteps_loss/0.5-0.6")) == {8, 10}
    assert set(scalars(run, "val_loss/0.5-0.6")) == {7}
    assert "val_loss/0.1-0.2" not in tags(run)
    (sums,) = checkpoint(run)["callbacks"]["Timesteps"]["sums"]
    assert sums[1].sum() == 2 * 2 * B  # two steps of two batches after the last validation
    assert tenths["train_loss"] == means(sums)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SAMPLERS, "accumulated"])
def test_the_picture_of_a_run(name: str, runs: Path) -> None:
    pixels = np.asarray(Image.open(runs / name / "timesteps.png"))
    scored = summary(runs / name)["tenths"]["score"] is not None
    assert pixels.shape == (720 if scored else 510, 800, 3)
    reddish = (pixels[..., 0] > 180) & (pixels[..., 2] < 110)  # the validation losses
    bluish = (pixels[..., 2] > 150) & (pixels[..., 0] < 220) & (pixels[..., 0] < pixels[..., 2])
    assert 50 < reddish.sum() < 0.05 * reddish.size
    assert 0.05 < bluish.mean() < 0.8  # the law is filled
    board = EventAccumulator(str(runs / name / "tensorboard")).Reload()
    assert [e.step for e in board.Images("timesteps")] == [8, 10 if name == "accumulated" else 16]


@pytest.mark.slow
def test_the_closing_table(runs: Path) -> None:
    lines = (runs / "out").read_text().splitlines()
    (first,) = (i for i, line in enumerate(lines) if line.startswith("timesteps"))
    assert lines[first].split(maxsplit=1)[1] == (
        "OnlineTopK, objective-changing, effective sample size 1.00, exploration 0.10"
    )
    tenths = summary(runs / "online_topk")["tenths"]
    header, _, *rows = (re.split(r"\s\s+", line) for line in lines[first + 1 : first + 13])
    assert header == ["of t / T", "p", "score", "train loss", "val loss"]
    for column, name in enumerate(("p", "score", "train_loss", "val_loss"), start=1):
        shown = [None if row[column] == "-" else float(row[column]) for row in rows]
        assert shown == [v and pytest.approx(v, rel=0.05) for v in tenths[name]]
    assert max(map(len, lines)) <= 100


@pytest.mark.slow
def test_kills_change_no_curve(tmp_path: Path) -> None:
    """Resumed right after a validation (8) and between two (12): the sums are in the checkpoint."""
    options = ["experiment=digits_ddpm", *TINY, "timesteps=online_topk", "timesteps.bins=3",
               "trainer.accumulate_grad_batches=2", "budget.max_steps=20", "budget.save_every=2",
               "timesteps.score=last_layer", "timesteps.refresh_every=5"]  # fmt: skip
    jobs = [job("train", *options, "run_dir=whole")]
    jobs += [job("train", *options, "run_dir=killed", kill_at=9)]
    jobs += [job("train", "ckpt_path=killed", kill_at=13), job("train", "ckpt_path=killed")]
    done = ddiff_many(jobs, tmp_path)
    assert [d.status for d in done] == [0, -9, -9, 0], done[-1].err
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    curves = [t for t in tags(whole) if t.startswith(("timesteps", "val_loss"))]
    assert len(curves) >= 2 + 10 + 10 + 8 + 4
    assert {t: scalars(killed, t) for t in curves} == {t: scalars(whole, t) for t in curves}
    assert set(scalars(whole, "timesteps_p/0.0-0.1")) == {8, 16, 20}
    assert summary(killed) == summary(whole)
    a, b = (checkpoint(run)["callbacks"] for run in (whole, killed))
    assert differences(a, b) == []


@pytest.mark.slow
def test_two_ranks_report_one_training(tmp_path: Path) -> None:
    ranks = ["trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp", "schedule.T=4"]
    done = ddiff("train", *COMMON, *ranks, "budget.max_steps=10", "run_dir=run", cwd=tmp_path)
    assert done.status == 0, done.err
    run = tmp_path / "run"
    sums = checkpoint(run)["callbacks"]["Timesteps"]["sums"]
    assert sums.shape == (2, 2, 10)
    assert sums[:, 1].sum(1).tolist() == [2 * B, 2 * B]  # two steps since the last validation
    assert not torch.equal(sums[0, 0], sums[1, 0])
    assert at_end(run, "timesteps_loss", 10) == [
        v and pytest.approx(v, rel=1e-6) for v in means(sums.sum(0))
    ]
    sampler = Stratified(constant(4, 0.01))
    draws = [sampler.sample(B, generator("cpu", 0, "val", 0, i))[0] for i in range(2)]
    shown, loss = at_end(run, "val_loss", 7), scalars(run, "val/loss")[7]
    assert weighted_mean(shown, counted(draws, 4)) == pytest.approx(loss, abs=1e-6)
    again = ddiff("train", f"ckpt_path={run}", "budget.max_steps=12", cwd=tmp_path)
    assert again.status == 0, again.err
    assert checkpoint(run)["callbacks"]["Timesteps"]["sums"][:, 1].sum() == 2 * 4 * B

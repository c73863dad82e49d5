"""Killed anywhere and resumed, a training ends where an undisturbed one does, bit for bit."""

import json
import random
from pathlib import Path

import pytest
import torch

from tests.support.runs import SHORT, TINY, checkpoint, ddiff_many, differences, job, scalars

STEPS = 16
FEW = ("budget.save_every=3", "callbacks.timesteps=null")
VOLUMES = ("experiment=voxel_baseline", "data.size=16", "data.num=24", "net.patch_size=2")
DIGITS = ("experiment=digits_cfg", "net=unet_tiny")
CASES = {
    "digits": (DIGITS, 4),
    "a transformer": ((*DIGITS[:1], "net=dit_tiny", "net.dropout=0.1", "net.depth=2"), 1),
    "digits with accumulation, dropout and fp32": (
        (*DIGITS, "trainer.accumulate_grad_batches=3", "net.dropout=0.2", "precision=fp32"),
        2,
    ),
    "volumes": (
        (*VOLUMES, "net.input_skip=true", "net.bounded=true", "timesteps=stratified",
         "optimizer=muon"),
        2,
    ),
    "volumes in bf16, logit-normal": ((*VOLUMES, "timesteps=logit_normal", "precision=bf16"), 1),
    "a flow, log-normal, guided in an interval": (
        (*DIGITS, "schedule=flow", "objective=flow", "timesteps=log_normal", "solver=heun",
         "guidance=interval", "callbacks=power_averages"),
        1,
    ),
    "shortcuts of a conditional flow": (
        (*DIGITS, "schedule=flow", "objective=flow", "module.shortcuts=0.25", "solver=few",
         "module.shortcuts_guidance=0.5", "timesteps=online_topk", "timesteps.bins=4"),
        1,
    ),
    "shortcuts in volumes, told the noise level": (
        (*VOLUMES, "module.shortcuts=0.5", "net/embedding=log_snr", "precision=bf16"),
        1,
    ),
    "digits in fp16": ((*DIGITS, "precision=fp16"), 1),
    "online_topk": ((*VOLUMES, "timesteps=online_topk", "timesteps.bins=4"), 1),
    "online_topk exact": (
        (*DIGITS, "timesteps=online_topk_exact", "timesteps.bins=4", "timesteps.refresh_every=5"),
        1,
    ),
    "online_topk calibrated": (
        (*DIGITS, "timesteps=online_topk", "timesteps.score=calibrated", "timesteps.bins=4",
         "timesteps.refresh_every=5"),
        1,
    ),
    "online_topk last_layer, weighted by min_snr": (
        (*DIGITS, "timesteps=online_topk", "timesteps.score=last_layer", "timesteps.bins=6",
         "timesteps.refresh_every=3", "objective.weighting=min_snr"),
        1,
    ),
    "loss_second_moment": (
        (*DIGITS, "timesteps=loss_second_moment", "timesteps.bins=3", "timesteps.history=3"),
        1,
    ),
    "stratified_importance with accumulation": (
        (*DIGITS, "timesteps=stratified_importance", "timesteps.bins=4",
         "trainer.accumulate_grad_batches=2"),
        1,
    ),
    "precomputed_topk": (
        (*DIGITS, "timesteps=precomputed_topk", "timesteps.path=scores.json"),
        1,
    ),
    "uncertainty, immiscible": (
        (*DIGITS, "timesteps=uncertainty", "timesteps.bins=4", "module.immiscible=true"),
        1,
    ),
    "speed": ((*DIGITS, "timesteps=speed"), 1),
    "all timesteps": ((*DIGITS, "timesteps=all", "schedule.T=10"), 1),
    "told a class, a text and a mask": ((*DIGITS, "data.conditions=[class,text,mask]"), 2),
    "told numbers and a picture": (
        (*VOLUMES, "module=conditional_ddpm", "data.conditions=[radius,centre_x,coarse]",
         "data.flip=true"),
        1,
    ),
    "speed_released": ((*VOLUMES, "timesteps=speed_released", "objective.weighting=p2"), 1),
}  # fmt: skip
PAUSED = ((*DIGITS, "timesteps=online_topk", "timesteps.bins=4"), (5, 8, 11))
SCORES = ("min_batches=2", "relative_error=10", "score=proxy", "out=scores.json")


QUICK = ("digits", "volumes", "a transformer")


@pytest.mark.parametrize(
    "case",
    [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
)
def test_kills_change_nothing(case: str, tmp_path: Path) -> None:
    options, kills = CASES[case]
    seed = random.randrange(10**6)
    moments = sorted(random.Random(seed).sample(range(1, STEPS), kills))
    small = SHORT if "net=dit_tiny" in options else TINY
    common = (*options, *small, f"budget.max_steps={STEPS}", *FEW)
    moments[0] = max(moments[0], 4)  # before the first checkpoint there is nothing to resume from
    jobs = [job("train", *common, "run_dir=whole")]
    jobs += [job("train", *common, "run_dir=killed", kill_at=moments[0])]
    jobs += [job("train", "ckpt_path=killed", kill_at=m) for m in moments[1:]]
    jobs += [job("train", "ckpt_path=killed")]
    if case == "precomputed_topk":
        scores = job("importance", *options[:-2], *TINY, *SCORES)
        assert ddiff_many([scores], tmp_path)[0].status == 0
    done = ddiff_many(jobs, tmp_path)
    assert [d.status for d in done] == [0] + [-9] * kills + [0], (seed, moments, done[-1].err)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    a, b = checkpoint(whole), checkpoint(killed)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "batches_seen", "global_step",
                 "callbacks"):  # fmt: skip
        assert differences(a[part], b[part], part) == [], (seed, moments)
    if "fp16" in case:
        assert differences(a["GradientScaling"], b["GradientScaling"]) == []
    if (average := "timesteps.average.seen") in a["state_dict"]:
        assert a["state_dict"][average].min() > 0  # so that the law had been learned
    for tag in ("train/loss", "val/loss"):
        expected = scalars(whole, tag)
        assert len(expected) == (STEPS if tag == "train/loss" else STEPS // 8)
        assert scalars(killed, tag) == expected, (tag, seed, moments)


def test_a_moved_run_resumes_where_it_is_and_says_what_changed(tmp_path: Path) -> None:
    start = job(
        "train", *DIGITS, *TINY, "budget.max_steps=4", "run_dir=first", "optimizer.lr=0.001"
    )
    assert ddiff_many([start], tmp_path)[0].status == 0
    (tmp_path / "first").rename(tmp_path / "second")
    more = [
        "ckpt_path=second",
        "budget.max_steps=6",
        "optimizer.lr=0.5",
        "optimizer.weight_decay=0.1",
    ]
    assert ddiff_many([job("train", *more)], tmp_path)[0].status == 0
    assert {p.name for p in tmp_path.iterdir()} == {"second"}
    saved = checkpoint(tmp_path / "second")
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert saved["global_step"] == 6
    assert group["weight_decay"] == 0.1
    assert group["initial_lr"] == 0.5
    assert saved["ddiff"]["config"]["optimizer"]["lr"] == 0.5


def test_a_run_keeps_the_options_it_was_trained_with(tmp_path: Path) -> None:
    """As if an older ddiff had trained it, whose recipe and defaults were others."""
    start = job("train", *DIGITS, *TINY, "budget.max_steps=4", "run_dir=run")
    assert ddiff_many([start], tmp_path)[0].status == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    saved = checkpoint(tmp_path / "run")
    config = saved["ddiff"]["config"]
    config["schedule"] = {"_target_": "ddiff.diffusion.schedules.sigmoid", "T": 1000}
    config["module"]["p_uncond"] = 0.3
    config["budget"]["save_every"] = 1
    saved["ddiff"]["overrides"].remove("budget.max_steps=4")
    del config["memory_budget_gb"]  # an option that did not exist
    torch.save(saved, last)
    again = [
        job("train", "ckpt_path=run"),
        job("train", "ckpt_path=run", "budget.max_steps=6"),
        job("train", "ckpt_path=run", "budget.max_steps=8", "schedule=cosine", "run_dir=fork"),
    ]
    done = ddiff_many(again, tmp_path)
    assert done[0].status == 2
    assert "has reached step 4 already" in done[0].err  # not on to today's number of steps
    assert done[1].status == 0, done[1].err
    assert "as it was trained: budget.save_every=1, module.p_uncond=0.3, schedule=" in done[1].out
    now = checkpoint(tmp_path / "run")["ddiff"]["config"]
    assert now["schedule"] == config["schedule"]
    assert (now["module"]["p_uncond"], now["budget"]["save_every"]) == (0.3, 1)
    assert now["lr_schedule"]["total_steps"] == 6
    assert done[2].status == 0, done[2].err
    fork = checkpoint(tmp_path / "fork")["ddiff"]["config"]
    assert fork["schedule"]["_target_"].endswith("cosine")
    assert fork["module"]["p_uncond"] == 0.3


@pytest.mark.slow
def test_pauses_change_nothing_and_are_validated(tmp_path: Path) -> None:
    """5 and 11 are no steps at which a validation is due; 8 is."""
    options, moments = PAUSED
    common = (*options, *TINY, f"budget.max_steps={STEPS}", "budget.save_every=100")
    jobs = [
        job("train", *common, "run_dir=whole"),
        job("train", *common, "budget.val_every=1", "run_dir=watched"),
    ]
    jobs += [job("train", *common, f"budget.pause_at={moments[0]}", "run_dir=paused")]
    jobs += [job("train", "ckpt_path=paused", f"budget.pause_at={m}") for m in moments[1:]]
    done = ddiff_many(jobs, tmp_path)
    watched = scalars(tmp_path / "watched", "val/loss")
    for at, one in zip(moments, done[2:], strict=True):
        assert one.status == 0, one.err
        assert f"paused after step {at}; ckpt_path=paused continues" in one.out
    metrics = json.loads((tmp_path / "paused/metrics.json").read_text())
    assert metrics["step"] == 11
    assert metrics["val/loss"] == pytest.approx(watched[10], rel=1e-6)  # logged at the step before
    (last,) = ddiff_many([job("train", "ckpt_path=paused")], tmp_path)
    assert last.status == 0, last.err
    whole, paused = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "paused")
    assert paused["global_step"] == STEPS
    assert differences(whole["state_dict"], paused["state_dict"]) == []
    assert differences(whole["optimizer_states"], paused["optimizer_states"]) == []

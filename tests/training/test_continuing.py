"""Continuing a run: nothing of its past is lost, and nothing of it changes meaning."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddiff.system.checkpoints import load_checkpoint
from ddiff.system.errors import DdiffError
from tests.support.runs import TINY, Done, checkpoint, ddiff_many, differences, job

DIGITS = ("experiment=digits_cfg", *TINY)
A = ("ckpt_path=A", "budget.max_steps=6")  # a run of 4 steps
MISTAKES = {  # name: (options, words that the one line must hold)
    "a fork onto another run": (["ckpt_path=A", "run_dir=B", "budget.max_steps=6"],
                                ["B already holds a run", "ckpt_path=B"]),
    "another net": ([*A, "net.channels=[16,32]"], ["net.channels", "[8, 16] -> [16, 32]",
                                                   "run_dir=NEW"]),
    "another net in a fork": ([*A, "net.channels=[16,32]", "run_dir=C"],
                              ["does not fit", "in the checkpoint"]),
    "another objective": ([*A, "objective=eps"], ["objective._target_", "run_dir=NEW"]),
    "another schedule": ([*A, "schedule=linear"], ["schedule._target_", "run_dir=NEW"]),
    "another seed": ([*A, "seed=7"], ["seed (0 -> 7)", "run_dir=NEW"]),
    "other data": ([*A, "data.flip=true"], ["data.flip (False -> True)", "run_dir=NEW"]),
    "another experiment": ([*A, "experiment=digits_ddpm"], ["module._target_", "run_dir=NEW"]),
    "another optimiser": ([*A, "optimizer=muon", "run_dir=C"], ["moments are AdamW's", "Muon"]),
    "a checkpoint without a run": (["ckpt_path=theirs.ckpt", "budget.max_steps=6"],
                                   ["theirs.ckpt does not lie in a run", "run_dir=NEW"]),
    "an older checkpoint of the run": (["ckpt_path=A/checkpoints/old.ckpt", "budget.max_steps=6"],
                                       ["stands at step 2", "gone on to step 4", "run_dir=NEW"]),
    "an empty ckpt_path": (["ckpt_path=", *DIGITS], ["ckpt_path", "empty", "shell variable"]),
    "an empty run_dir": (["run_dir=", *DIGITS], ["run_dir", "empty"]),
    "an empty name": ([*DIGITS, "name="], ["name", "run_dir="]),
    "a name that climbs": ([*DIGITS, "name=a/../../x"], ["name", "below runs=runs"]),
    "an absolute name": ([*DIGITS, "name=/abs"], ["name", "below runs=runs"]),
    "a flipped bit": (["ckpt_path=flipped", "budget.max_steps=6"], ["flipped", "damaged"]),
    "an empty checkpoint": (["ckpt_path=zero.ckpt", "run_dir=C"], ["zero.ckpt is empty"]),
    "a figure nobody measures": ([*DIGITS, "optimized_metric=quality/fid"],
                                 ["optimized_metric", "evaluation.every"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """A directory with runs A (4 steps) and B (8), and what every mistake answered in it."""
    cwd = tmp_path_factory.mktemp("world")
    runs = [
        job("train", *DIGITS, "budget.max_steps=2", "run_dir=A"),
        job("train", *DIGITS, "budget.max_steps=8", "run_dir=B"),
    ]
    assert [d.err for d in ddiff_many(runs, cwd)] == ["", ""]
    shutil.copy(cwd / "A/checkpoints/last.ckpt", cwd / "A/checkpoints/old.ckpt")
    (more,) = ddiff_many([job("train", "ckpt_path=A", "budget.max_steps=4")], cwd)
    assert more.err == ""
    shutil.copy(cwd / "A/checkpoints/last.ckpt", cwd / "theirs.ckpt")
    (cwd / "zero.ckpt").touch()
    shutil.copytree(cwd / "A", cwd / "flipped")
    flip(cwd / "flipped/checkpoints/last.ckpt")
    before = contents(cwd)
    jobs = [job("train", *options) for options, _ in MISTAKES.values()]
    answers = dict(zip(MISTAKES, ddiff_many(jobs, cwd), strict=True))
    assert contents(cwd) == before  # nothing changed, nothing made
    return cwd, answers


def flip(file: Path) -> None:
    """Changes one bit in the middle of the file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes but the locks', which say who had it last."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    found = {str(p): p.read_bytes() for p in files}
    return found | {str(p): b"" for p in folder.rglob("*") if p.is_dir()}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_refuses_it_and_nothing_changes(
    name: str, world: tuple[Path, dict[str, Done]]
) -> None:
    done = world[1][name]
    (line,) = done.err.strip().splitlines()
    assert [word for word in MISTAKES[name][1] if word not in line] == [], line
    assert done.status in (1, 2)


def test_a_run_records_what_changed_and_keeps_what_it_knew(tmp_path: Path) -> None:
    jobs = [
        job("train", *DIGITS, "budget.max_steps=4", "budget.val_every=4", "run_dir=A"),
        job("train", "ckpt_path=A", "budget.max_steps=6", "optimizer.lr=0.5",
            "trainer.limit_val_batches=0"),
    ]  # fmt: skip
    first, second = tmp_path / "first.json", tmp_path / "A/metrics.json"
    assert ddiff_many(jobs[:1], tmp_path)[0].status == 0
    shutil.copy(second, first)
    (done,) = ddiff_many(jobs[1:], tmp_path)
    assert done.status == 0, done.err
    assert "from step 4 on: optimizer.lr=0.5 (was 0.001)" in done.out
    known, metrics = json.loads(first.read_text()), json.loads(second.read_text())
    assert metrics["val/loss"] == known["val/loss"]
    assert metrics["kept"]["val/loss"] == 4
    assert metrics["step"] == 6
    assert metrics["seconds"] > known["seconds"]
    assert metrics["peak_memory_mb"] >= known["peak_memory_mb"]
    where = json.loads((tmp_path / "A/environment.json").read_text())
    changed = {"lr_schedule.total_steps": [4, 6], "optimizer.lr": [0.001, 0.5]}
    assert (where["from_step"], where["changed"]) == (4, changed)
    assert "ckpt_path=A" in where["command"]
    (earlier,) = where["before"]
    assert "run_dir=A" in earlier["command"]


def test_a_fork_may_change_what_it_likes(tmp_path: Path) -> None:
    jobs = [
        job("train", *DIGITS, "budget.max_steps=2", "run_dir=A"),
        job("train", "ckpt_path=A", "budget.max_steps=3", "seed=7", "objective=eps", "run_dir=B"),
    ]
    done = ddiff_many(jobs, tmp_path)
    assert [d.status for d in done] == [0, 0], done[-1].err
    assert checkpoint(tmp_path / "A")["global_step"] == 2
    fork = checkpoint(tmp_path / "B")
    assert fork["global_step"] == 3
    assert fork["ddiff"]["config"]["seed"] == 7
    where = json.loads((tmp_path / "B/environment.json").read_text())
    assert where["from_checkpoint"] == "A/checkpoints/last.ckpt"


@pytest.mark.slow
def test_a_longer_training_says_that_the_rate_jumps_and_how_to_keep_it(tmp_path: Path) -> None:
    start = [*DIGITS, "budget.max_steps=20", "lr_schedule.warmup_steps=1", "budget.val_every=20"]
    jobs = [
        job("train", *start, "run_dir=A"),
        job("train", "ckpt_path=A", "budget.max_steps=22", "lr_schedule.total_steps=20",
            "run_dir=B"),
        job("train", "ckpt_path=A", "budget.max_steps=200", "run_dir=C"),
    ]  # fmt: skip
    done = ddiff_many(jobs, tmp_path)
    assert [d.status for d in done] == [0, 0, 0], done[-1].err
    assert "learning rate" not in done[1].out
    kept = checkpoint(tmp_path / "B")["optimizer_states"][0]["param_groups"][0]["lr"]
    assert kept == pytest.approx(0.02 * 1e-3)
    (said,) = [line for line in done[2].out.splitlines() if line.startswith("learning rate")]
    assert said.startswith("learning rate 0.000978 from step 20 on, 2e-05 up to there")
    assert "lr_schedule.total_steps=20 keeps the old curve" in said


@pytest.mark.slow
def test_two_trainings_never_share_a_directory(tmp_path: Path) -> None:
    """The second is told which process has it; a killed one gives it back."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ddiff.train", *DIGITS, "run_dir=A"]
    first = subprocess.Popen(
        [*command, "budget.max_steps=100000", "budget.save_every=2"],
        cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "A/.lock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        (second,) = ddiff_many([job("train", *DIGITS, "run_dir=A")], tmp_path)
        assert second.status in (1, 2)
        (line,) = second.err.strip().splitlines()
        assert f"in use by process {first.pid} on " in line or "already holds a run" in line
        (resumed,) = ddiff_many([job("train", "ckpt_path=A")], tmp_path)
        assert resumed.status == 1
        assert f"in use by process {first.pid} on " in resumed.err
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    step = checkpoint(tmp_path / "A")["global_step"]
    more = [f"budget.max_steps={step + 2}", "ckpt_path=A"]
    (after,) = ddiff_many([job("train", *more)], tmp_path)
    assert after.status == 0, after.err
    assert checkpoint(tmp_path / "A")["global_step"] == step + 2


def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(7, 5, generator=generator) for i in range(9)}
    saved = {"state_dict": weights, "ddiff": {"config": {}, "overrides": []}, "global_step": 3}
    torch.save(saved, file)
    good, refused = file.read_bytes(), 0
    for position in range(0, len(good), 3):
        data = bytearray(good)
        data[position] ^= 1 << (position % 8)
        file.write_bytes(data)
        try:
            found = load_checkpoint(file)
        except DdiffError:
            refused += 1
        else:
            assert differences(found, saved) == [], position
    assert refused > len(good) // 3 * 0.3


@pytest.mark.parametrize("length", [0, 1, 3, 4, 100, -1])
def test_a_cut_checkpoint_is_one_line(length: int, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}, "ddiff": {"config": {}, "overrides": []}}, file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DdiffError, match=r"x\.ckpt") as error:
        load_checkpoint(file)
    assert "\n" not in str(error.value)
    if length == 0:
        assert "is empty (0 bytes)" in str(error.value)

"""Two ranks train, resume and sample as one rank does with twice the accumulation.

The ranks are processes on the CPU, connected by gloo.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ddiff.system.checkpoints import batches_of_all_ranks, ranks_of
from tests.support.runs import (
    TINY,
    Done,
    by_slurm,
    by_torchrun,
    checkpoint,
    ddiff_many,
    differences,
    forked,
    job,
    scalars,
    two_ranks,
)

STEPS = 12
ACCUMULATED = "trainer.accumulate_grad_batches=2"
# labels and their drops, dropout, flips, noise of philox, and all 75 batches of a validation, of
# which the second rank has one less and the last is of one sample
LABELS = ("experiment=digits_cfg", *TINY, "net=unet_tiny", "net.dropout=0.2", "data.flip=true",
          "precision=fp32", "backend=native", "trainer=cpu", "trainer.limit_val_batches=null",
          "sampling.num_samples=4", f"budget.max_steps={STEPS}", "budget.save_every=3")  # fmt: skip
VOLUMES = ("experiment=voxel_baseline", *TINY, "data.size=16", "data.num=24", "net.patch_size=2",
           "timesteps=stratified", "precision=fp32", "backend=eager", "trainer=cpu",
           "budget.max_steps=6", "budget.val_every=6")  # fmt: skip
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "batches_seen", "global_step")


class Fail(Callback):
    """Something that goes wrong on the second rank alone, in its sixth batch."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == 1 and batch_idx == 5:
            if self.how == "unreadable":
                raise OSError(5, "Input/output error", "photo.png")
            batch[0].fill_(float("nan"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one`: by one rank, accumulating. `two`: by two ranks. The others are killed in step 8 and
    go on from step 6, with the number of ranks in their name."""
    cwd = tmp_path_factory.mktemp("world")
    alone = [
        job("train", *LABELS, ACCUMULATED, "run_dir=one"),
        job("train", *LABELS, ACCUMULATED, "run_dir=one_then_two", kill_at=8),
    ]
    assert [done.status for done in ddiff_many(alone, cwd)] == [0, -9]
    two = two_ranks(*LABELS, "run_dir=two", cwd=cwd)
    assert [done.status for done in two] == [0, 0], two[0].err
    killed = two_ranks(*LABELS, "run_dir=two_then_two", cwd=cwd, kill=(1, 8))
    assert [done.status for done in killed] == [1, -9], killed[0].err
    (cwd / "survivor").write_text(killed[0].err)
    shutil.copytree(cwd / "two_then_two", cwd / "two_then_one")
    for name in ("one_then_two", "two_then_two"):
        assert checkpoint(cwd / name)["global_step"] == 6
        done = two_ranks(f"ckpt_path={name}", "trainer.accumulate_grad_batches=1", cwd=cwd)
        assert [one.status for one in done] == [0, 0], done[0].err
        (cwd / name / "out").write_text(done[0].out)
    more = ("trainer.devices=1", "trainer.strategy=auto", ACCUMULATED)
    done = forked("train", "ckpt_path=two_then_one", *more, cwd=cwd)
    assert done.status == 0, done.err
    (cwd / "two_then_one" / "out").write_text(done.out)
    return cwd


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "two_then_two", "one_then_two", "two_then_one"])
def test_two_ranks_are_one_rank_that_accumulates(name: str, world: Path) -> None:
    """Bit for bit, for a sum of two numbers has one order only."""
    one, other = checkpoint(world / "one"), checkpoint(world / name)
    assert [d for part in PARTS for d in differences(one[part], other[part], part)] == []
    assert other["batches_seen"] == 2 * STEPS
    assert other["callbacks"]["Checkpoints"] == one["callbacks"]["Checkpoints"]
    assert other["spent"]["images"] == 2 * STEPS * 4
    files = [world / run / f"samples/step_{STEPS:06d}.npy" for run in ("one", name)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "two_then_two", "one_then_two", "two_then_one"])
def test_what_is_validated_and_logged_is_the_same(name: str, world: Path) -> None:
    for tag in ("val/loss", "train/grad_norm", "train/lr", "train/epochs"):
        one, other = scalars(world / "one", tag), scalars(world / name, tag)
        assert other == {step: pytest.approx(value, rel=1e-6) for step, value in one.items()}, tag
    assert len(scalars(world / name, "val/loss")) == 1
    of_tenths = [
        json.loads((world / run / "metrics.json").read_text())["timesteps"]["tenths"]
        for run in ("one", name)
    ]
    for curve in ("train_loss", "val_loss"):
        one, other = (tenths[curve] for tenths in of_tenths)
        assert other == [value and pytest.approx(value, rel=1e-6) for value in one]


@pytest.mark.slow
def test_a_killed_rank_ends_the_other_with_one_line(world: Path) -> None:
    (line,) = (world / "survivor").read_text().strip().splitlines()
    assert line == (
        "ddiff: rank 0 ends, for it lost another rank, which may have said why; "
        "resume with ckpt_path=two_then_two"
    )


@pytest.mark.slow
def test_a_resume_says_when_the_ranks_change(world: Path) -> None:
    said = {p.parent.name: re.findall("from step.*", p.read_text()) for p in world.glob("*/out")}
    same = "the same samples and noise a step, sums in another order"
    one, two = "1 rank x 2 batches of 4", "2 ranks x 1 batch of 4"
    assert said == {
        "two_then_two": [],
        "one_then_two": [f"from step 6 on: {two} (was {one}): {same}"],
        "two_then_one": [f"from step 6 on: {one} (was {two}): {same}"],
    }
    where = json.loads((world / "two_then_one/environment.json").read_text())
    assert (where["ranks"], where["before"][0]["ranks"]) == (1, 2)
    assert ranks_of(checkpoint(world / "two")) == 2


@pytest.mark.slow
def test_a_run_of_two_ranks_samples_like_one(world: Path) -> None:
    jobs = [job("sample", f"run={run}", "num_samples=5", f"out={run}") for run in ("one", "two")]
    assert [done.status for done in ddiff_many(jobs, world)] == [0, 0]
    a, b = (np.load(world / f"{run}.npy") for run in ("one", "two"))
    assert np.array_equal(a, b)
    assert a.std() > 0.1


@pytest.mark.slow
def test_sums_of_four_differ_by_rounding(tmp_path: Path) -> None:
    """Volumes, in strata of t. Two ranks add up (0 + 2) + (1 + 3), one rank 0 + 1 + 2 + 3."""
    done = forked("train", *VOLUMES, "run_dir=one", "trainer.accumulate_grad_batches=4",
                  cwd=tmp_path)  # fmt: skip
    assert done.status == 0, done.err
    ranks = two_ranks(*VOLUMES, "run_dir=two", ACCUMULATED, cwd=tmp_path)
    assert [one.status for one in ranks] == [0, 0], ranks[0].err
    one, two = (
        torch.cat(
            [
                value.double().flatten()
                for value in checkpoint(tmp_path / run)["state_dict"].values()
            ]
        )
        for run in ("one", "two")
    )
    apart = float((one - two).norm() / one.norm())
    assert 0 < apart < 1e-6, apart  # measured: 3.1e-7
    losses = [scalars(tmp_path / run, "val/loss")[5] for run in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
def test_torchrun(world: Path) -> None:
    """The real one: both ranks compose the config, and the directory is that of rank 0."""
    program = Path(sys.executable).with_name("torchrun")
    options = [*LABELS, "trainer.devices=2", "trainer.strategy=ddp", "name=launched"]
    done = subprocess.run(
        [program, "--standalone", "--nproc-per-node", "2", "-m", "ddiff.train", *options],
        cwd=world,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    (run,) = (world / "runs/launched").iterdir()
    two, launched = checkpoint(world / "two"), checkpoint(run)
    assert [d for part in PARTS for d in differences(two[part], launched[part], part)] == []


@pytest.mark.slow
def test_slurm(world: Path) -> None:
    """Two processes with the variables of srun; no cluster was at hand."""
    done = two_ranks(*LABELS, "name=in_slurm", cwd=world, launcher=by_slurm)
    assert [one.status for one in done] == [0, 0], done[0].err
    (run,) = (world / "runs/in_slurm").iterdir()
    two, launched = checkpoint(world / "two"), checkpoint(run)
    assert [d for part in PARTS for d in differences(two[part], launched[part], part)] == []


def test_ranks_that_nobody_asked_for_are_refused(tmp_path: Path) -> None:
    options = ("experiment=digits_ddpm", *TINY, "trainer=cpu")
    for launcher in (by_torchrun, by_slurm):
        done = forked("train", *options, cwd=tmp_path, **launcher(0, 2, 1))
        assert done.status == 2
        (line,) = done.err.strip().splitlines()
        assert "trainer.devices: 2 processes were started" in line
        assert "say trainer.devices=2 trainer.strategy=ddp" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["not a number", "unreadable"])
def test_what_fails_on_one_rank_ends_both(how: str, tmp_path: Path) -> None:
    fail = (f"+callbacks.fail._target_={__name__}.Fail", f"+callbacks.fail.how={how}")
    options = ("experiment=digits_ddpm", *TINY, "budget.max_steps=40", "budget.save_every=1")
    first, second = two_ranks(*options, *fail, "run_dir=run", cwd=tmp_path, DDIFF_TRUST="tests")
    if how == "unreadable":  # its own rank says it
        assert second == Done(1, "", "ddiff: photo.png: input/output error\n")
        assert "rank 0 ends, for it lost another rank" in first.err
    else:  # all agree, and the first rank says it
        assert (second.status, second.err) == (0, "")
        assert first.err.startswith("ddiff: the loss is not a number at step 6, timestep ")
    assert first.status == 1
    assert len(first.err.strip().splitlines()) == 1
    saved = checkpoint(tmp_path / "run")
    assert saved["global_step"] == 5
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


@pytest.mark.slow
def test_runs_of_older_versions_go_on(world: Path, tmp_path: Path) -> None:
    """Old checkpoints counted the batches of one rank, and did not record the number of ranks."""
    shutil.copytree(world / "two_then_two", tmp_path / "old")
    saved = checkpoint(tmp_path / "old")
    del saved["ddiff"]["ranks"]
    saved["batches_seen"] //= 2
    torch.save(saved, tmp_path / "old/checkpoints/last.ckpt")
    assert (ranks_of(saved), batches_of_all_ranks(saved)) == (2, 2 * STEPS)
    saved["callbacks"].pop("Timesteps")
    assert ranks_of(saved) == 2  # of trainer.devices
    more = ("trainer.devices=1", "trainer.strategy=auto", f"budget.max_steps={STEPS + 2}")
    done = forked("train", "ckpt_path=old", *more, cwd=tmp_path)
    assert done.status == 0, done.err
    assert (
        "the run had 2 ranks of an older ddiff, which dealt out batches and noise otherwise: "
        "it continues, but not with the same batches"
    ) in done.out
    assert (
        f"from step {STEPS} on: 1 rank x 1 batch of 4 (was 2 ranks x 1 batch of 4): "
        "a step has 4 samples (was 8)"
    ) in done.out
    assert checkpoint(tmp_path / "old")["batches_seen"] == 2 * STEPS + 2


@pytest.mark.slow
def test_steps_and_validations_stay_where_they_were_with_another_accumulation(
    world: Path, tmp_path: Path
) -> None:
    """Three batches a step from step 12 on: the next step is whole, the validation is at 16."""
    shutil.copytree(world / "one", tmp_path / "run")
    more = ("trainer.accumulate_grad_batches=3", "budget.max_steps=17")
    done = forked("train", "ckpt_path=run", *more, cwd=tmp_path)
    assert done.status == 0, done.err
    assert checkpoint(tmp_path / "run")["batches_seen"] == 2 * STEPS + 3 * 5
    assert sorted(scalars(tmp_path / "run", "val/loss")) == [7, 15]

"""A training that does not finish: signals, a loss that is not a number, a full disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import TINY, checkpoint, differences, forked

DIGITS = ("experiment=digits_ddpm", *TINY, "run_dir=run")


def heed_signals() -> None:
    """Undoes what nohup, or a shell that runs the tests in the background, lets children ignore."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


OTHERS = [pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGHUP)]


@pytest.mark.parametrize("signum", [signal.SIGTERM, *OTHERS])
def test_a_signal_saves_and_leaves(signum: signal.Signals, tmp_path: Path) -> None:
    options = [*DIGITS, "budget.max_steps=100000", "budget.save_every=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddiff.train", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=heed_signals,
    )
    best = tmp_path / "run/checkpoints/best.ckpt"  # written after 8 steps
    deadline = time.monotonic() + 120
    while not best.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    step = checkpoint(tmp_path / "run")["global_step"]
    assert process.returncode == 128 + signum
    assert errors.strip() == (
        f"ddiff: stopped by {signum.name} after step {step}; resume with ckpt_path=run"
    )
    more = forked("train", "ckpt_path=run", f"budget.max_steps={step + 2}", cwd=tmp_path)
    assert more.status == 0, more.err
    assert checkpoint(tmp_path / "run")["global_step"] == step + 2


KICK = """
import os, signal
from lightning.pytorch import Callback

class Kick(Callback):
    \"\"\"A signal to this process, if it is the second rank, in its first validation.\"\"\"

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
"""


EARLY = """
import os, signal
from lightning.pytorch import Callback

class Early(Callback):
    \"\"\"A signal while the trainer begins.\"\"\"

    def on_train_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.slow
def test_a_signal_before_the_first_step_saves_after_it(tmp_path: Path) -> None:
    """Lightning would end with status 0, as if all were done."""
    (tmp_path / "early.py").write_text(EARLY)
    options = [*DIGITS, "budget.max_steps=100000", "+callbacks.early._target_=early.Early"]
    done = subprocess.run(
        [sys.executable, "-m", "ddiff.train", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DDIFF_TRUST": "early"},
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step 1; resume" in done.stderr
    assert checkpoint(tmp_path / "run")["global_step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["between two steps", "in a validation"])
def test_a_signal_to_any_rank_saves_once_and_ends_all(moment: str, tmp_path: Path) -> None:
    """Two ranks on the CPU; the second one gets the signal, and the first one says it.

    Saving is collective: a rank that acts on a signal alone waits for the others for ever.
    """
    ranks = ("trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    options = [*DIGITS, *ranks, "budget.max_steps=100000", "budget.save_every=100000"]
    if moment == "in a validation":
        (tmp_path / "kick.py").write_text(KICK)
        options.append("+callbacks.kick._target_=kick.Kick")
    process = subprocess.Popen(
        [sys.executable, "-m", "ddiff.train", *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DDIFF_TRUST": "kick"},
    )
    try:
        if moment == "between two steps":
            best = tmp_path / "run/checkpoints/best.ckpt"
            deadline = time.monotonic() + 120
            while not best.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(0.5)
            os.kill(second_rank_of(process.pid), signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    step = checkpoint(tmp_path / "run")["global_step"]
    assert process.returncode == 128 + signal.SIGTERM
    said = [line for line in errors.splitlines() if line.startswith("ddiff: ")]
    assert said == [f"ddiff: stopped by SIGTERM after step {step}; resume with ckpt_path=run"]
    deadline = time.monotonic() + 30
    while ranks_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ranks_in(tmp_path)


def second_rank_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (second,) = [
        int(child)
        for child in children
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes()
    ]
    return second


def ranks_in(folder: Path) -> list[int]:
    """The processes that work in a folder and have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder:
                found.append(int(entry.name))
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.slow
def test_a_connection_that_breaks_does_not_end_what_nohup_started(tmp_path: Path) -> None:
    options = [*DIGITS, "budget.max_steps=60"]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "ddiff.train", *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    best = tmp_path / "run/checkpoints/best.ckpt"
    deadline = time.monotonic() + 120
    while not best.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 0
    assert checkpoint(tmp_path / "run")["global_step"] == 60


def test_nan_names_step_and_timestep_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    good = forked("train", *DIGITS, "budget.max_steps=4", cwd=tmp_path)
    assert good.status == 0, good.err
    before = checkpoint(tmp_path / "run")
    bad = forked(
        "train", "ckpt_path=run", "budget.max_steps=12", "budget.save_every=1",
        "optimizer.lr=1e38", "trainer.gradient_clip_val=null", cwd=tmp_path,
    )  # fmt: skip
    assert bad.status == 1
    (line,) = bad.err.strip().splitlines()
    assert line.startswith("ddiff: the loss is not a number at step ")
    assert ", timestep " in line
    after = checkpoint(tmp_path / "run")
    assert all(bool(v.isfinite().all()) for v in after["state_dict"].values())
    assert before["global_step"] <= after["global_step"] < 12


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: the write of the checkpoint fails midway."""
    good = forked("train", *DIGITS, "budget.max_steps=4", cwd=tmp_path)
    assert good.status == 0, good.err
    before = checkpoint(tmp_path / "run")
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));"
        "sys.argv = ['train', 'ckpt_path=run', 'budget.max_steps=8'];"
        "from ddiff.train import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("ddiff: cannot write run/checkpoints/")
    assert "the checkpoint before it is intact" in line
    assert differences(before, checkpoint(tmp_path / "run")) == []
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


def test_a_time_limit_ends_like_the_last_step(tmp_path: Path) -> None:
    limit = ["budget.max_steps=100000", "budget.save_every=100000", "trainer.max_time=00:00:00:02"]
    done = forked("train", *DIGITS, *limit, cwd=tmp_path)
    assert done.status == 0, done.err
    step = checkpoint(tmp_path / "run")["global_step"]
    assert json.loads((tmp_path / "run/metrics.json").read_text())["step"] == step > 0
    assert (tmp_path / f"run/samples/step_{step:06d}.npy").is_file()

"""Starting ddiff as a user does, and reading back what a run wrote."""

import atexit
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
TINY = (  # seconds a run
    "net.channels=[8,16]",
    "net.num_blocks=1",
    "net.mid_attention=false",
    "budget.batch_size=4",
    "budget.log_every=1",
    "budget.val_every=8",
    "trainer.limit_val_batches=1",
    "budget.sample_every=1000",
    "sampling.num_samples=2",
    "solver.num_steps=2",
)


@dataclass(frozen=True)
class Done:
    status: int  # negative for a signal
    out: str
    err: str


def ddiff(verb: str, *options: str, cwd: Path, **env: str) -> Done:
    """`python -m ddiff.<verb> options`, as from a shell in `cwd`."""
    done = subprocess.run(
        [sys.executable, "-m", f"ddiff.{verb}", *options],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1800,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def job(
    verb: str, *options: str, kill_at: int | None = None, seconds: int = 0, **env: str
) -> dict[str, Any]:
    return {"verb": verb, "argv": list(options), "kill_at": kill_at, "seconds": seconds, "env": env}


class Forks:
    """Commands in forks of one process that has imported everything: a second each is saved, and
    the imports of Lightning are paid once."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, jobs: list[dict[str, Any]], cwd: Path) -> list[Done]:
        """The commands one after another."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
            )
        to, back = self.process.stdin, self.process.stdout
        assert to
        assert back
        done = []
        for one in jobs:
            print(json.dumps({**one, "cwd": str(cwd)}), file=to, flush=True)
            done.append(Done(**json.loads(back.readline())))
        return done

    def close(self) -> None:
        if self.process:
            self.process.communicate()  # it ends where its input does
            self.process = None


FORKS = Forks()  # of this process
atexit.register(FORKS.close)


def ddiff_many(jobs: list[dict[str, Any]], cwd: Path) -> list[Done]:
    """Like `ddiff`, for many commands in turn, in forks of one process."""
    return FORKS.run(jobs, cwd)


def forked(verb: str, *options: str, cwd: Path, **env: str) -> Done:
    """Like `ddiff`, in a fork."""
    return ddiff_many([job(verb, *options, **env)], cwd)[0]


def checkpoint(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / name, weights_only=True)


def scalars(run: Path, tag: str) -> dict[int, float]:
    """{step: value}; a step that was logged twice must have been logged alike."""
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    found: dict[int, float] = {}
    for event in board.Scalars(tag):
        assert found.setdefault(event.step, event.value) == event.value, (tag, event.step)
    return found


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors and plain values differ, bit for bit."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        shared = a.keys() & b.keys()
        inside = [d for k in shared for d in differences(a[k], b[k], f"{path}.{k}")]
        return [f"{path}.{k}" for k in a.keys() ^ b.keys()] + inside
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [path]
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [path]

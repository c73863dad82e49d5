"""Starting ddiff as a user does, and reading back what a run wrote."""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
SHORT = (  # seconds a run
    "budget.batch_size=4",
    "budget.log_every=1",
    "budget.val_every=8",
    "trainer.limit_val_batches=1",
    "budget.sample_every=1000",
    "sampling.num_samples=2",
    "solver.num_steps=2",
)
TINY = ("net.channels=[8,16]", "net.num_blocks=1", "net.mid_attention=false", *SHORT)  # a U-Net


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
            path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
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


def chosen(request: pytest.FixtureRequest, parameter: str) -> set[Any]:
    """Values of a parameter in those tests of the module that this session runs."""
    mine = (i for i in request.session.items if i.path == request.path and hasattr(i, "callspec"))
    return {i.callspec.params[parameter] for i in mine if parameter in i.callspec.params}


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


def free_port() -> int:
    """The first of two free ports in a row, for `by_torchrun` and `by_slurm`."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                two.bind(("127.0.0.1", port + 1))
                return port


def by_torchrun(rank: int, number: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives to a rank, but for its store: rank 0 serves one."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    own |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"TORCHELASTIC_RUN_ID": "none"} | {name: str(value) for name, value in own.items()}


def by_slurm(rank: int, number: int, port: int) -> dict[str, str]:
    """The variables that srun gives to a rank, of those that Lightning and ddiff read."""
    own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_NNODES": 1}
    own |= {"SLURM_NTASKS": number, "SLURM_NTASKS_PER_NODE": number, "SLURM_JOB_ID": 1234}
    own |= {"SLURM_STEP_NUM_TASKS": number, "SLURM_JOB_NAME": "train", "MASTER_PORT": port}
    return {"SLURM_NODELIST": "127.0.0.1"} | {name: str(value) for name, value in own.items()}


PAIR = FORKS, Forks()  # for each of two ranks
atexit.register(PAIR[1].close)


def two_ranks(
    *options: str,
    cwd: Path,
    launcher: Callable[[int, int, int], dict[str, str]] = by_torchrun,
    kill: tuple[int, int] | None = None,
    **env: str,
) -> list[Done]:
    """A training by two ranks that a launcher has started: what each of them said.

    `kill`: a rank, and the step in which it is killed.
    """
    options = (*options, "trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    port = free_port()

    def one(rank: int) -> Done:
        at = kill[1] if kill and kill[0] == rank else None
        own = job("train", *options, kill_at=at, seconds=120, **launcher(rank, 2, port), **env)
        return PAIR[rank].run([own], cwd)[0]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))

"""Child processes: each runs a job, and ends with the process that started it."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO

from ddiff.study.engines.base import Job, environment_of_jobs

PATIENCE = 60  # seconds between the signal that asks a job to end and the one that kills it
TAKEN_AWAY = (-signal.SIGTERM, 128 + signal.SIGTERM)  # how a job ends when its machine is wanted


def start(
    job: Job, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start the job's process in the folder, or in the current one.

    A process of the same job that an earlier engine left behind may still be saving; it holds the
    lock of the log, and this one waits for it.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        _wait_for_lock(log)
        return subprocess.Popen(
            [sys.executable, "-m", *job.words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,  # the lock lasts until the process ends, for it shares the open file
            stderr=subprocess.STDOUT,
            env={**environment_of_jobs(), **environment},
            start_new_session=True,  # Ctrl-C reaches the engine alone, which ends its jobs
            preexec_fn=_end_with_parent(),
        )


def end(processes: Collection[subprocess.Popen[bytes]]) -> None:
    """End processes by SIGTERM, on which a training saves, and kill what has not ended in time."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_line(log: Path) -> str:
    """The last line of a log that says something: for a job that failed, the reason."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def note(log: Path, line: str) -> None:
    """Append a line to a log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"ddiff: {line}\n")


def _wait_for_lock(log: IO[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return


def _end_with_parent() -> Callable[[], None] | None:
    """A function that a new process calls first, so that Linux sends it SIGTERM when its parent is
    gone, however that ended. None elsewhere."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended before we could ask
            os.kill(os.getpid(), signal.SIGTERM)

    return ask

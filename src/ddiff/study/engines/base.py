"""The interface of an engine: it takes jobs, and says which of them have ended."""

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from ddiff.system.errors import Stopped


@dataclass(frozen=True)
class Job:
    """A command `python -m <words>` that can be started again after a loss: it then continues."""

    name: str
    words: tuple[str, ...]  # a module and its arguments
    log: Path  # stdout and stderr are appended to it


@dataclass(frozen=True)
class Ended:
    """A job that has ended. `status` is its exit status, negative for a signal that killed it.

    None: the machine was lost or taken away, and the job can be submitted again.
    """

    job: Job
    status: int | None


def environment_of_jobs() -> dict[str, str]:
    """This process's environment, without the variable that the shell around a verb sets in it."""
    return {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}


class Engine(Protocol):
    """A place with some slots; each runs one job at a time. Jobs work in the current folder."""

    @property
    def slots(self) -> int:
        """The number of jobs that can run at the same time."""
        ...

    def submit(self, job: Job) -> None:
        """Start the job, or queue it where all slots are taken."""
        ...

    def wait(self, seconds: float) -> list[Ended]:
        """The jobs that have ended since the last call, once there is one or the time is over."""
        ...

    def close(self) -> None:
        """End what still runs by SIGTERM, on which a training saves, and wait until it has."""
        ...


def run_all(engine: Engine, jobs: Sequence[Job], tries: int = 3) -> Generator[Ended]:
    """Yield the jobs as they end, each submitted up to `tries` times if it is lost.

    Whatever ends this process, but for SIGKILL, ends the jobs first.
    """
    left = {job: tries for job in jobs}
    with stopped_by_sigterm():
        try:
            for job in jobs:
                engine.submit(job)
            while left:
                for ended in engine.wait(1.0):
                    left[ended.job] -= 1
                    if ended.status is None and left[ended.job]:
                        engine.submit(ended.job)
                        continue
                    del left[ended.job]
                    yield ended
        finally:
            engine.close()


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into the exception Stopped inside the block, so that jobs can be ended."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise Stopped("stopped by SIGTERM, and so were the jobs", signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

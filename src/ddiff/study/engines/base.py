"""The interface of an engine: it takes jobs, and says which of them have ended."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
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


def lost(ended: Ended) -> bool:
    return ended.status is None


def most_tries(ended: Ended) -> int:
    """Return the number of tries of a job that ends like this each time."""
    return 10 if lost(ended) else 3


def as_they_end(
    engine: Engine, jobs: Sequence[Job], again: Callable[[Ended], bool] = lost
) -> Iterator[list[Ended]]:
    """Submit the jobs and yield, every second or sooner, those that have ended for good, if any.

    A job for which `again` says so is submitted again, up to three times in all. Where its machine
    was lost, up to ten times, and later each time: a cluster may take a minute to notice that a
    machine is gone, and sends jobs there until then.
    """
    ends, losses = dict.fromkeys(jobs, 0), dict.fromkeys(jobs, 0)
    due: dict[Job, float] = {}  # lost jobs, and when to submit them again
    for job in jobs:
        engine.submit(job)
    while ends:
        now = time.monotonic()
        for job in [job for job, when in due.items() if when <= now]:
            del due[job]
            engine.submit(job)
        found = []
        for ended in engine.wait(1.0):
            job, counted = ended.job, losses if lost(ended) else ends
            counted[job] += 1
            if not again(ended) or counted[job] == most_tries(ended):
                del ends[job]
                found.append(ended)
            elif lost(ended):
                due[job] = now + min(60, 2.0 ** losses[job])
            else:
                engine.submit(job)
        if not found and due and len(due) == len(ends):
            time.sleep(1.0)  # nothing runs, and an engine without jobs does not wait
        yield found


def run_all(engine: Engine, jobs: Sequence[Job]) -> Generator[Ended]:
    """Yield the jobs as they end. Whatever ends this process, but for SIGKILL, ends them first."""
    with stopped_by("stopped by {}, and so were the jobs", signal.SIGTERM):
        try:
            for some in as_they_end(engine, jobs):
                yield from some
        finally:
            engine.close()


@contextmanager
def stopped_by(message: str, *signals: signal.Signals) -> Iterator[None]:
    """Turn these signals into the exception Stopped inside the block, so that jobs can be ended.

    `{}` in the message is the signal's name.
    """

    def stop(signum: int, frame: object) -> NoReturn:
        raise Stopped(message.format(signal.Signals(signum).name), signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, stop) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

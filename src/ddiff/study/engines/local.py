"""Jobs on this machine, each on cores or a GPU of its own."""

import os
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Literal

import pynvml

from ddiff.study.engines.base import Ended, Job
from ddiff.study.engines.children import end, start
from ddiff.system.bounds import At
from ddiff.system.errors import ConfigError
from ddiff.system.threads import cores_here

Number = Annotated[int, At(least=1, most=4096)] | Literal["auto"]


@dataclass(frozen=True)
class Slot:
    """A place for one job: the cores it is bound to, and its GPU if it has one."""

    cores: tuple[int, ...]
    gpu: str | None

    def environment(self) -> dict[str, str]:
        own = {"OMP_NUM_THREADS": str(len(self.cores))}
        return own | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})


class Local:
    """Jobs on this machine. Each slot has `threads` cores that no other slot uses, and on a machine
    with GPUs a GPU.

    slots: auto is one for each GPU, or else as many as the cores allow. threads: auto is 1 without
    GPUs, or else an equal part of the cores.
    """

    def __init__(self, slots: Number = "auto", threads: Number = "auto") -> None:
        self.places = places(slots, threads, cores_here(), visible_gpus())
        self.free = list(reversed(self.places))
        self.queue: deque[Job] = deque()
        self.running: dict[subprocess.Popen, tuple[Job, Slot]] = {}

    @property
    def slots(self) -> int:
        return len(self.places)

    def submit(self, job: Job) -> None:
        self.queue.append(job)
        self._start()

    def wait(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while True:
            ended = [process for process in self.running if process.poll() is not None]
            if ended or not self.running or time.monotonic() >= until:
                break
            time.sleep(0.05)
        found = []
        for process in ended:
            job, slot = self.running.pop(process)
            self.free.append(slot)
            found.append(Ended(job, process.returncode))
        self._start()
        return found

    def close(self) -> None:
        self.queue.clear()
        end(self.running)
        self.running.clear()
        self.free = list(reversed(self.places))

    def _start(self) -> None:
        while self.queue and self.free:
            job, slot = self.queue.popleft(), self.free.pop()
            process = start(job, slot.environment())
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, slot.cores)
            self.running[process] = (job, slot)


def places(slots: Number, threads: Number, cores: list[int], gpus: list[str]) -> list[Slot]:
    """The slots of a machine with these cores and GPUs."""
    if slots == "auto" and gpus:
        slots = len(gpus)
    if threads == "auto":
        threads = 1 if not gpus and slots == "auto" else max(1, len(cores) // _number(slots, cores))
    if slots == "auto":
        slots = max(1, len(cores) // threads)
    if slots * threads > len(cores):
        raise ConfigError(
            f"engine: {slots} slots of {threads} threads need {slots * threads} cores, "
            f"and there are {len(cores)}"
        )
    own = [tuple(cores[i * threads : (i + 1) * threads]) for i in range(slots)]
    return [Slot(mine, gpus[i % len(gpus)] if gpus else None) for i, mine in enumerate(own)]


def _number(slots: Number, cores: list[int]) -> int:
    return len(cores) if slots == "auto" else slots


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name and name != "-1"]
    try:
        pynvml.nvmlInit()
        return [str(n) for n in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver
        return []

"""An engine for tests: jobs are forks of the study's process, which has imported everything."""

import ctypes
import os
import runpy
import signal
import sys
import time
import traceback
from collections import deque

import torch
from hydra.core.global_hydra import GlobalHydra

from ddiff.study.engines import Ended, Job


class Forking:
    """Jobs in forks, one for each slot: what `Local` does, without seconds of imports for each."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.queue: deque[Job] = deque()
        self.running: dict[int, Job] = {}
        torch.set_num_threads(1)

    def submit(self, job: Job) -> None:
        self.queue.append(job)
        self._start()

    def wait(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while self.running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in self.running:
                ended = Ended(self.running.pop(pid), os.waitstatus_to_exitcode(status))
                self._start()
                return [ended]
            if time.monotonic() >= until:
                break
            time.sleep(0.02)
        return []

    def close(self) -> None:
        self.queue.clear()
        for pid in self.running:
            os.kill(pid, signal.SIGTERM)
        for pid in self.running:
            os.waitpid(pid, 0)
        self.running.clear()

    def _start(self) -> None:
        while self.queue and len(self.running) < self.slots:
            job = self.queue.popleft()
            job.log.parent.mkdir(parents=True, exist_ok=True)
            sys.stdout.flush()
            sys.stderr.flush()
            if pid := os.fork():
                self.running[pid] = job
                continue
            os._exit(child(job))


def child(job: Job) -> int:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    GlobalHydra.instance().clear()
    os.environ.pop("HYDRA_FULL_ERROR", None)
    log = os.open(job.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = list(job.words)
    status = 0
    try:
        runpy.run_module(job.words[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return status

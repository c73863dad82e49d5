"""Moments and the seconds between them, without making the device wait."""

import time
from collections.abc import Iterable
from typing import Any, Protocol

import torch


class Clock(Protocol):
    name: str

    def now(self) -> Any: ...

    def seconds(self, start: Any, end: Any) -> float:
        """Between two moments that have passed."""
        ...

    def passed(self, moment: Any) -> bool: ...

    def wait(self, moment: Any) -> None: ...

    def free(self, moments: Iterable[Any]) -> None:
        """They are not asked about again."""
        ...


class HostClock:
    name = "host"
    now = staticmethod(time.perf_counter)

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def passed(self, moment: float) -> bool:
        return True

    def wait(self, moment: float) -> None:
        pass

    def free(self, moments: Iterable[float]) -> None:
        pass


class CudaClock:
    """Events in the current stream: a phase lasts as long as the device is busy with what it
    queued, or idle waiting for more of it. Read when they have passed, so nothing waits."""

    name = "CUDA events"

    def __init__(self) -> None:
        self.spare: list[torch.cuda.Event] = []

    def now(self) -> torch.cuda.Event:
        event = self.spare.pop() if self.spare else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1e3

    def passed(self, moment: torch.cuda.Event) -> bool:
        return moment.query()

    def wait(self, moment: torch.cuda.Event) -> None:
        moment.synchronize()

    def free(self, moments: Iterable[torch.cuda.Event]) -> None:
        self.spare += moments


def clock_for(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else HostClock()

"""Every moment of a step belongs to one phase, the innermost; what none claims is "other"."""

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch

from ddiff.system import phases

OTHER = "other"
STEP, PHASE = "step ", "phase: "  # before the numbers and names of annotations
# beside the steps, not in them
APART = ("validation", "samples", "evaluations", "checkpoints", "start", "transfer", "writing")
WHOLE = frozenset({"timesteps", *APART})  # marks inside them are not heard
Changes = list[tuple[str | None, Any]]  # from this moment on, this phase


class HostClock:
    """Moments and the seconds between them. On the host every moment has passed."""

    name = "host"

    def now(self) -> Any:
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two moments that have passed."""
        return end - start

    def passed(self, moment: Any) -> bool:
        return True

    def wait(self, moment: Any) -> None:
        """Returns when the moment has passed."""

    def free(self, moments: Iterable[Any]) -> None:
        """Takes back moments that are not asked about again."""


class CudaClock(HostClock):
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


def clock_for(device: torch.device) -> HostClock:
    return CudaClock() if device.type == "cuda" else HostClock()


class Ledger:
    """Seconds by step and phase; four bytes each."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.seconds: dict[str, array] = {}

    def add(self, number: int, spent: dict[str, float]) -> None:
        for name in spent.keys() - self.seconds.keys():
            self.seconds[name] = array("f", bytes(4 * len(self.numbers)))
        for name, column in self.seconds.items():
            column.append(spent.get(name, 0.0))
        self.numbers.append(number)


class Timeline:
    """Listens to marks. `timed(number)` says whether a step counts; `ended(number)` is told of
    every end of a step, outside it; `annotate(name)` makes a phase visible to others while it
    lasts."""

    def __init__(
        self,
        clock: HostClock,
        timed: Callable[[int], bool] = lambda number: True,
        ended: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.clock, self.timed, self.ended = clock, timed, ended
        self.annotate: Callable[[str], Any] | None = None
        self.steps = 0  # ended
        self.ledger = Ledger()
        self.apart: dict[str, float] = {}  # seconds
        self._open: list[tuple[str, Any]] = []  # names, and their annotations or None
        self._deaf = 0  # depth inside a phase of WHOLE
        self._in_step = False
        self._turns: Changes = []
        self._waiting: deque[tuple[int, Changes]] = (
            deque()
        )  # steps whose moments may not have passed

    def enter(self, name: str) -> None:
        if self._deaf:
            self._deaf += 1
            return
        if name in WHOLE:
            self._deaf = 1
        if name == phases.STEP:
            self._in_step = True
        annotation = None
        if self.annotate:
            whole = name == phases.STEP
            annotation = self.annotate(f"{STEP}{self.steps + 1}" if whole else f"{PHASE}{name}")
            annotation.__enter__()
        self._open.append((name, annotation))
        self._turn()

    def leave(self) -> None:
        if self._deaf:
            self._deaf -= 1
            if self._deaf:
                return
        name, annotation = self._open.pop()
        if annotation is not None:
            annotation.__exit__(None, None, None)
        if name == phases.STEP:
            self._in_step = False
        self._turn()
        if name == phases.STEP:
            self.steps += 1
            self._settle(self.steps)
            self.ended(self.steps)

    def close(self) -> None:
        """End the record after the last step. A step that never ended is dropped."""
        self._settle(0, wait=True)

    def _turn(self) -> None:
        name = self._open[-1][0] if self._open else None
        if name == phases.STEP:
            name = OTHER
        if self._in_step or name in APART or (self._turns and self._turns[-1][0] is not None):
            self._turns.append((name, self.clock.now()))

    def _settle(self, number: int, wait: bool = False) -> None:
        """Puts the turns of a step (0: of none) in the queue, and adds up those that have passed;
        all of them after a wait."""
        self._waiting.append((number, self._turns))
        self._turns = []
        while self._waiting:
            number, turns = self._waiting[0]
            if turns and not self.clock.passed(turns[-1][1]):
                if not wait:
                    return
                self.clock.wait(turns[-1][1])
            self._waiting.popleft()
            spent: dict[str, float] = {}
            for (name, start), (_, end) in pairwise(turns):
                if name is not None:
                    into = self.apart if name in APART else spent
                    into[name] = into.get(name, 0.0) + self.clock.seconds(start, end)
            self.clock.free(moment for _, moment in turns)
            if number and self.timed(number):
                self.ledger.add(number, spent)

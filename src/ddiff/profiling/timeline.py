"""Every moment of a step belongs to one phase, the innermost; what none claims is "other"."""

from array import array
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from ddiff.profiling.clocks import Clock
from ddiff.system.phases import STEP

OTHER = "other"
# beside the steps, not in them
APART = ("validation", "samples", "evaluations", "checkpoints", "start", "transfer", "writing")
WHOLE = frozenset({"timesteps", *APART})  # marks inside them are not heard


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
        clock: Clock,
        timed: Callable[[int], bool] = lambda number: True,
        ended: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.clock, self.timed, self.ended = clock, timed, ended
        self.annotate: Callable[[str], Any] | None = None
        self.steps = 0  # ended
        self.ledger = Ledger()
        self.apart: dict[str, float] = {}  # seconds
        self._open: list[str] = []
        self._annotations: list[Any] = []
        self._deaf = 0  # depth inside a phase of WHOLE
        self._in_step = False
        self._turns: list[tuple[str | None, Any]] = []  # from this moment on, this phase
        self._waiting: deque[tuple[int, list[tuple[str | None, Any]]]] = deque()

    def enter(self, name: str) -> None:
        if self._deaf:
            self._deaf += 1
            return
        if name in WHOLE:
            self._deaf = 1
        if name == STEP:
            self._in_step = True
        self._open.append(name)
        if self.annotate:
            annotation = self.annotate(f"step {self.steps + 1}" if name == STEP else name)
            annotation.__enter__()
            self._annotations.append(annotation)
        self._turn()

    def leave(self) -> None:
        if self._deaf:
            self._deaf -= 1
            if self._deaf:
                return
        name = self._open.pop()
        if self._annotations:
            self._annotations.pop().__exit__(None, None, None)
        if name != STEP:
            self._turn()
            return
        self._in_step = False
        self._turn()
        self.steps += 1
        self._waiting.append((self.steps, self._turns))
        self._turns = []
        self._settle(all_of_them=False)
        self.ended(self.steps)

    def close(self) -> None:
        """After the last step; one that never ended is dropped."""
        self._waiting.append((0, self._turns))
        self._turns = []
        self._settle(all_of_them=True)

    def _turn(self) -> None:
        name = self._open[-1] if self._open else None
        if name == STEP:
            name = OTHER
        if self._in_step or name in APART or (self._turns and self._turns[-1][0] is not None):
            self._turns.append((name, self.clock.now()))

    def _settle(self, all_of_them: bool) -> None:
        while self._waiting:
            number, turns = self._waiting[0]
            if turns and not self.clock.passed(turns[-1][1]):
                if not all_of_them:
                    return
                self.clock.wait(turns[-1][1])
            self._waiting.popleft()
            spent: dict[str, float] = {}
            for (name, start), (_, end) in pairwise(turns):
                seconds = self.clock.seconds(start, end)
                if name in APART:
                    self.apart[name] = self.apart.get(name, 0.0) + seconds
                elif name is not None:
                    spent[name] = spent.get(name, 0.0) + seconds
            self.clock.free(moment for _, moment in turns)
            if number and self.timed(number):
                self.ledger.add(number, spent)

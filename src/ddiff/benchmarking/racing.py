"""Contestants timed side by side, round by round: a noisy machine is then noisy for all of them."""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddiff.benchmarking.memory import Memory
from ddiff.system.errors import DdiffError

Run = Callable[[], Tensor]  # one unit of work, and what it made
Clock = Callable[[], float]


@dataclass(frozen=True, eq=False)
class Contestant:
    """`build` does all that comes before the first run; `shared` bytes are there already."""

    backend: str
    precision: str
    build: Callable[[], Run]
    shared: int = 0


@dataclass(eq=False)
class Outcome:
    trouble: str | None = None  # why it could not run, and then all else is empty
    first: float = 0.0  # seconds from nothing to the end of the first run
    graphs: int = 0  # that torch.compile made in the first run
    recompiles: int = 0  # and in later ones
    memory: dict[str, int] = field(default_factory=dict)  # bytes
    seconds: list[float] = field(default_factory=list)  # of every timed run
    last: Tensor | None = None  # what the last run made


def race(
    contestants: Sequence[Contestant],
    repeats: int,
    device: torch.device,
    clock: Clock,
    on_turn: Callable[[str], None] = lambda name: None,
) -> list[Outcome]:
    """One outcome for each contestant: a cold start and a warm-up each, then rounds of all.

    A contestant that cannot run says so in its outcome; the first one must be able to.
    """
    lanes = [_Lane(contestant, device, clock) for contestant in contestants]
    for turn in (_Lane.start, *[_Lane.go] * repeats):
        for lane in lanes:
            on_turn(f"{lane.contestant.backend} {lane.contestant.precision}")
            if lane.outcome.trouble:
                continue
            try:
                turn(lane)
            except (DdiffError, RuntimeError) as error:  # torch's own are RuntimeErrors
                if lane is lanes[0]:
                    raise
                lane.run, lane.outcome = None, Outcome(trouble=_line(error))
    return [lane.outcome for lane in lanes]


class _Lane:
    """A contestant in the race."""

    def __init__(self, contestant: Contestant, device: torch.device, clock: Clock) -> None:
        self.contestant, self.device, self.clock = contestant, device, clock
        self.run: Run | None = None
        self.outcome = Outcome()

    def start(self) -> None:
        outcome, meter = self.outcome, Memory(self.device, self.contestant.shared)
        before, begin = compilations(), self.clock()
        self.run = self.contestant.build()
        outcome.last = self.run()
        outcome.first = self.clock() - begin
        outcome.graphs = compilations() - before
        outcome.last, outcome.memory = meter.peak_of(self.run)
        outcome.recompiles = compilations() - before - outcome.graphs
        if not bool(outcome.last.isfinite().all()):
            raise DdiffError("it makes numbers that are not finite")

    def go(self) -> None:
        assert self.run is not None
        before, begin = compilations(), self.clock()
        self.outcome.last = self.run()
        self.outcome.seconds.append(self.clock() - begin)
        self.outcome.recompiles += compilations() - before


def stopwatch(device: torch.device) -> Clock:
    """Seconds, once the device has done all that it was told to do."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def compilations() -> int:
    """Graphs that torch.compile has made in this process."""
    if "torch._dynamo.utils" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def forget() -> None:
    """Frees what the contestants of a race held, compiled code included."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # pyright: ignore[reportPrivateImportUsage]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _line(error: Exception) -> str:
    if isinstance(error, DdiffError):
        return " ".join(str(error).split())
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a word'}"

"""Contestants timed side by side, round by round: a noisy machine is then noisy for all of them."""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from omegaconf import DictConfig
from torch import Tensor

from ddiff.system.errors import DdiffError
from ddiff.system.resources import give_back_freed, peak_memory, restart_peak

Run = Callable[[], Tensor]  # one unit of work, and what it made
Fidelity = dict[str, float | None]
MEMORY = {  # the words beside the figures
    "cuda": "memory: peak of torch's allocator in a batch, weights included, other rows left out",
    "cpu": "memory: how far a batch raises the process's resident memory; weights and code, which "
    "stay between batches, are not in it",
}


@dataclass(frozen=True, eq=False)
class Choice:
    """An option of a group as it was typed, `compiled+regional`, and its config."""

    text: str
    node: DictConfig


@dataclass(frozen=True, eq=False)
class Contestant:
    """`build` does all that comes before the first run; `shared` bytes are there already."""

    backend: str
    precision: str
    build: Callable[[], Run]
    shared: int = 0


@dataclass(frozen=True, eq=False)
class Contest:
    """Contestants that do the same work; the first is the measure of the others. `judge` gives the
    fidelity of each row, after the last round."""

    title: str
    facts: dict[str, Any]  # what is the same for all of them
    batch_size: int
    contestants: Sequence[Contestant]
    judge: Callable[[Sequence["Row"]], list[Fidelity]]


@dataclass(eq=False)
class Row:
    """The measurements of one contestant."""

    backend: str
    precision: str
    batch_size: int
    trouble: str | None = None  # why it could not run, and then all else is empty
    first: float = 0.0  # seconds from nothing to the end of the first run
    graphs: int = 0  # that torch.compile made in the first run
    recompiles: int = 0  # and in later ones
    memory: dict[str, int] = field(default_factory=dict)  # bytes
    seconds: list[float] = field(default_factory=list)  # of every timed run
    run: Run | None = None  # until the row is judged
    last: Tensor | None = None  # what the last run made
    ratios: list[float] = field(default_factory=list)  # the first row's time over this, by round
    fidelity: Fidelity = field(default_factory=dict)

    @property
    def quartiles(self) -> tuple[float, ...]:
        """Quartiles of the seconds of a batch or a training step."""
        return tuple(np.quantile(self.seconds, (0.25, 0.5, 0.75)).tolist())

    @property
    def per_sample(self) -> tuple[float, ...]:
        return tuple(seconds / self.batch_size for seconds in self.quartiles)

    @property
    def rate(self) -> float:
        """Samples a second."""
        return 1 / self.per_sample[1]

    @property
    def ratio(self) -> float:
        return float(np.median(self.ratios))

    @property
    def cold_start(self) -> float:
        """Seconds that the first run took longer than a steady one."""
        return max(0.0, self.first - self.quartiles[1])

    def plain(self) -> dict[str, Any]:
        """The row as in benchmark.json."""
        name = {"backend": self.backend, "precision": self.precision}
        if self.trouble:
            return {**name, "cannot_run": self.trouble}
        low, middle, high = self.quartiles
        return {
            **name,
            "seconds": {"median": middle, "quartiles": [low, high], "all": self.seconds},
            "seconds_per_sample": self.per_sample[1],
            "samples_per_second": self.rate,
            "speed_up": {"median": self.ratio, "all": self.ratios},
            "cold_start_seconds": self.cold_start,
            "first_run_seconds": self.first,
            "compiled_graphs": self.graphs,
            "recompiles": self.recompiles,
            "memory_bytes": self.memory,
            "fidelity": self.fidelity,
        }


def race(
    contest: Contest,
    repeats: int,
    device: torch.device,
    meter: Callable[[int, str], None] = lambda done, name: None,
) -> list[Row]:
    """One row for each contestant: a cold start and a warm-up each, then rounds of all.

    A contestant that cannot run says so in its row; the first one must be able to.
    """
    rows = [Row(who.backend, who.precision, contest.batch_size) for who in contest.contestants]
    for turn in range(1 + repeats):
        for i, who in enumerate(contest.contestants):
            meter(turn * len(rows) + i, f"{who.backend} {who.precision}")
            if rows[i].trouble:
                continue
            try:
                if turn == 0:
                    _start(rows[i], who, device)
                else:
                    _go(rows[i], device)
            except (DdiffError, RuntimeError) as error:  # torch's own are RuntimeErrors
                if i == 0:
                    raise
                rows[i] = Row(who.backend, who.precision, contest.batch_size, _line(error))
    for row, fidelity in zip(rows, contest.judge(rows), strict=True):
        row.ratios = [a / b for a, b in zip(rows[0].seconds, row.seconds, strict=False)]
        row.fidelity, row.run = fidelity, None
    return rows


def _start(row: Row, who: Contestant, device: torch.device) -> None:
    """The cold start and the warm-up."""
    meter = Memory(device, who.shared)
    before, begin = compilations(), now(device)
    row.run = who.build()
    row.last = row.run()
    row.first = now(device) - begin
    row.graphs = compilations() - before
    row.last, row.memory = meter.peak_of(row.run)
    row.recompiles = compilations() - before - row.graphs
    if not bool(row.last.isfinite().all()):
        raise DdiffError("it makes numbers that are not finite")


def _go(row: Row, device: torch.device) -> None:
    assert row.run is not None
    before, begin = compilations(), now(device)
    row.last = row.run()
    row.seconds.append(now(device) - begin)
    row.recompiles += compilations() - before


def _line(error: Exception) -> str:
    if isinstance(error, DdiffError):
        return " ".join(str(error).split())
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a word'}"


class Memory:
    """Peak memory of one run, by what the device can tell. Made before a contestant is built:
    `shared` bytes, of the net it starts from, count as its own on a GPU."""

    def __init__(self, device: torch.device, shared: int) -> None:
        self.device = device
        give_back_freed(device)
        if device.type == "cuda":
            self.others = torch.cuda.memory_allocated(device) - shared
            self.others_reserved = torch.cuda.memory_reserved(device) - shared

    def peak_of(self, run: Run) -> tuple[Tensor, dict[str, int]]:
        """Return the result of the run, and its peak memory in bytes ({} if unknown)."""
        give_back_freed(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            made = run()
            torch.cuda.synchronize(self.device)
            return made, {
                "allocated": torch.cuda.max_memory_allocated(self.device) - self.others,
                "reserved": torch.cuda.max_memory_reserved(self.device) - self.others_reserved,
            }
        before = psutil.Process().memory_info().rss if restart_peak() else None
        made = run()
        return made, {} if before is None else {"resident": max(0, peak_memory() - before)}


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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

"""The profilers of conf/profiler: which steps each one records, and the report it writes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import nn

from ddiff.profiling.memory import Memory, draw, memory_in
from ddiff.profiling.recording import marked_in, operators, recorder, write_trace
from ddiff.profiling.summary import (
    curves,
    in_words,
    markdown,
    operators_table,
    phases_of,
    phases_table,
    summary,
)
from ddiff.profiling.timeline import Timeline, clock_for
from ddiff.system.bounds import At, Count
from ddiff.system.console import console, show_table
from ddiff.system.errors import ConfigError
from ddiff.system.files import write_json
from ddiff.system.phases import listening

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True, eq=False)
class Profiled:
    """Work that is profiled, and the places to write the report to."""

    kind: Literal["training", "sampling"]
    device: torch.device
    folder: Path
    board: Callable[[], "SummaryWriter"]
    held: Callable[[], dict[str, int]]  # bytes that live from the first step to the last
    first_step: int = 0  # steps done before, by another process

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


Watching = AbstractContextManager[Timeline | None]


@dataclass(frozen=True)
class Off:
    """No profiling."""

    waits = 0  # steps before the first that is timed

    def watching(self, subject: Profiled) -> Watching:
        return nullcontext()


@dataclass(frozen=True)
class Simple:
    """Times phases in all steps after the first `warmup`."""

    warmup: Annotated[int, At(least=0)] = 3

    def __post_init__(self) -> None:
        _check(0, "warmup", self.warmup)

    @property
    def waits(self) -> int:
        return self.warmup

    def watching(self, subject: Profiled) -> Watching:
        return _watching(subject, self.warmup)


@dataclass(frozen=True)
class Torch:
    """`Simple`, and torch.profiler on `active` steps (and one before them, which it slows most)
    after the warm-up. Steps that it records are not timed."""

    warmup: Count = 5
    active: Count = 3

    def __post_init__(self) -> None:
        _check(1, "warmup", self.warmup)
        _check(1, "active", self.active)

    @property
    def waits(self) -> int:
        return self.warmup + self.active + 1

    def watching(self, subject: Profiled) -> Watching:
        return _watching(subject, self.warmup, self.active)


def _check(least: int, name: str, value: int) -> None:
    if value < least:
        raise ConfigError(f"profiler.{name} must be {least} or more, not {value}")


def bytes_of(module: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


@contextmanager
def _watching(subject: Profiled, warmup: int, active: int = 0) -> Iterator[Timeline]:
    """Listens inside; writes and prints what there is at the end. Steps that torch.profiler
    records, and slows, are not timed."""
    profiler = recorder(subject.device) if active else None
    recorded = active + 1 if active else 0
    held: dict[str, int] = {}

    def ended(number: int) -> None:
        if profiler and number == warmup:
            held.update(subject.held())
            profiler.start()
            timeline.annotate = torch.profiler.record_function
        elif number == warmup + recorded:
            stop()

    def stop() -> None:
        if profiler and timeline.annotate:
            timeline.annotate = None
            profiler.stop()

    def timed(number: int) -> bool:
        return number > warmup + recorded

    timeline = Timeline(clock_for(subject.device), timed, ended)
    try:
        with listening(timeline):
            yield timeline
    finally:
        stop()
        timeline.close()
        if timeline.ledger.numbers:
            steps = {"timed": len(timeline.ledger.numbers), "before": warmup, "recorded": active}
            _report(subject, timeline, steps, profiler, held)
        else:
            others = f" and the {recorded} recorded ones" if recorded else ""
            console.print(
                f"profiler    nothing to say: {timeline.steps} steps ended, and the "
                f"profiler.warmup={warmup} first{others} are not timed; take more steps "
                "or a shorter warm-up"
            )


def _report(
    subject: Profiled,
    timeline: Timeline,
    steps: dict[str, int],
    profiler: torch.profiler.profile | None,
    held: dict[str, int],
) -> None:
    """Write the profile to the folder and to TensorBoard, and print it."""
    profile: dict[str, Any] = {
        "kind": subject.kind,
        "device": subject.device.type,
        "clock": timeline.clock.name,
        "steps": steps,
        **summary(phases_of(timeline.ledger)),
        "apart_seconds": timeline.apart,
    }
    folder, memory = subject.folder, None
    if profiler:
        folder.mkdir(parents=True, exist_ok=True)
        events = write_trace(profiler, folder / "trace.json.gz")
        memory = memory_in(events, marked_in(events), held, subject.on_gpu)
        profile["operators"] = operators(profiler, subject.on_gpu)
        profile["memory_mb"] = {
            "peak": memory.peak / 1e6,
            "at_peak": {name: size / 1e6 for name, size in memory.at_peak().items()},
        }
    write_json(folder / "profile.json", _rounded(profile))
    _to_board(subject, timeline, profile, memory)
    show_table(*phases_table(profile), title=f"{subject.kind}, by {timeline.clock.name}")
    console.print()
    console.print(f"step        {in_words(profile)}")
    if timeline.apart:
        apart = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in timeline.apart.items())
        console.print(f"apart       {apart}")
    console.print(f"profile     {folder / 'profile.json'}")
    if profiler:
        console.print(f"memory      {folder / 'memory.png'}")
        console.print(
            f"trace       {folder / 'trace.json.gz'}: open it at https://ui.perfetto.dev or "
            "chrome://tracing"
        )


def _to_board(
    subject: Profiled, timeline: Timeline, profile: dict[str, Any], memory: Memory | None
) -> None:
    """Curves, tables as text, and the picture, which is written too."""
    board, last = subject.board(), subject.first_step + timeline.ledger.numbers[-1]
    for tag, value, step in curves(timeline.ledger, subject.first_step):
        board.add_scalar(tag, value, step)
    text = f"{markdown(phases_table(profile))}\n\nStep: {in_words(profile)}"
    board.add_text("profile/phases", text, last)
    if memory:
        for name, by in (("time", "device_ms" if subject.on_gpu else "ms"), ("memory", "mb")):
            table = operators_table(profile["operators"], by, subject.on_gpu)
            board.add_text(f"profile/operators by {name}", markdown(table), last)
        picture = draw(memory, subject.folder / "memory.png")
        board.add_image("profile/memory", picture, last, dataformats="HWC")
    board.flush()


def _rounded(value: Any) -> Any:
    """Six digits that count."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value

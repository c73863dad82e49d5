"""What conf/profiler offers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ddiff.system.bounds import At, Count
from ddiff.system.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from ddiff.profiling.timeline import Timeline


@dataclass(frozen=True, eq=False)
class Subject:
    """What is profiled, and where to write about it."""

    kind: Literal["training", "sampling"]
    device: "torch.device"
    folder: Path
    board: Callable[[], "SummaryWriter"]
    held: Callable[[], dict[str, int]]  # bytes that live from the first step to the last
    first_step: int = 0  # steps done before, by another process


Watching = AbstractContextManager["Timeline | None"]


@dataclass(frozen=True)
class Off:
    """Nobody listens."""

    waits = 0

    def watching(self, subject: Subject) -> Watching:
        return nullcontext()


@dataclass(frozen=True)
class Simple:
    """Times phases in all steps after the first `warmup`."""

    warmup: Annotated[int, At(least=0)] = 3

    def __post_init__(self) -> None:
        _at_least(0, "warmup", self.warmup)

    @property
    def waits(self) -> int:
        """Steps before the first that is timed."""
        return self.warmup

    def watching(self, subject: Subject) -> Watching:
        """Listens inside; at the end writes and prints what it heard."""
        from ddiff.profiling.watch import watching

        return watching(subject, self.warmup)


@dataclass(frozen=True)
class Torch:
    """`Simple`, and torch.profiler on `active` steps (and one before them, which it slows most)
    after the warm-up. Steps that it records are not timed."""

    warmup: Count = 5
    active: Count = 3

    def __post_init__(self) -> None:
        _at_least(1, "warmup", self.warmup)
        _at_least(1, "active", self.active)

    @property
    def waits(self) -> int:
        """Steps before the first that is timed: the recorded ones are among them."""
        return self.warmup + self.active + 1

    def watching(self, subject: Subject) -> Watching:
        """Listens inside; at the end writes and prints what it heard and recorded."""
        from ddiff.profiling.watch import watching

        return watching(subject, self.warmup, self.active)


def bytes_of(module: "torch.nn.Module") -> int:
    """Of parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise ConfigError(f"profiler.{name} must be {least} or more, not {value}")

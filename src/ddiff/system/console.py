"""One console for everything that people read; errors go to stderr in ddiff.config.shell."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(soft_wrap=True, highlight=False)


class Meter(Protocol):
    def __call__(self, done: float, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: float, every_seconds: float = 15.0) -> Iterator[Meter]:
    """Yields `meter(done, note)`: a bar on a terminal, a line now and then in a log."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
        return
    started = reported = time.perf_counter()

    def meter(done: float, note: str = "") -> None:
        nonlocal reported
        now = time.perf_counter()
        if now - reported >= every_seconds:
            reported = now
            console.print(f"{title} {done:g}/{total:g}  {now - started:.0f} s  {note}")

    yield meter

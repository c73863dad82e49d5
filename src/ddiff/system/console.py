"""One console for everything that people read; errors go to stderr in ddiff.config.shell."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

console = Console(soft_wrap=True, highlight=False)
say_once = cache(console.print)  # what several parts of a command find out
WIDE = 10_000  # columns of a log: no table needs more


def show_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    left: Collection[int] = (0,),
    styles: Sequence[str] = (),
) -> None:
    """A table of text, without a header where that is empty. `left`: the columns of words, the
    others are numbers. `styles`: rich's, of each row.

    Cells wider than the terminal allows are folded; a log has every row on one line.
    """
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        show_header=bool(header),
        header_style="dim",
    )
    for i, name in enumerate(header or rows[0]):
        table.add_column(Text(name), justify="left" if i in left else "right", overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(*map(Text, row), style=styles[i] if styles else None)
    if title:
        console.print(Text(title, "bold"))
    target = console if console.is_terminal else Console(width=WIDE)
    target.print(table, soft_wrap=False)


class Meter(Protocol):
    def __call__(self, done: float, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: float, every_seconds: float = 15.0) -> Iterator[Meter]:
    """Yields `meter(done, note)`: a bar with the time left on a terminal, now and then a line in a
    log. The first call says where the work begins, which is not 0 for a resumed training."""
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
    first: float | None = None

    def meter(done: float, note: str = "") -> None:
        nonlocal started, reported, first
        now = time.perf_counter()
        if first is None:
            first, started = done, now
        if now - reported >= every_seconds and done > first:
            reported = now
            left = (now - started) * (total - done) / (done - first)
            console.print(
                f"{title} {done:g}/{total:g}  {duration(now - started)}, "
                f"{duration(left)} left  {note}"
            )

    yield meter


def duration(seconds: float) -> str:
    """A time for people: 45 s, 3.5 min, 2.1 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"

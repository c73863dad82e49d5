"""TensorBoard's scalars of a run, and how much training time each took."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

Point = tuple[int, float, float]  # optimiser steps, seconds of training, value


@dataclass(frozen=True)
class Curve:
    """Columns of one length: optimiser steps, seconds of training, values (NaN where broken)."""

    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray


def read_scalars(folder: Path, tags: Sequence[str]) -> dict[str, Curve]:
    """{tag: its curve} of what is there; `folder` holds a run's event files, one a process.
    Without any, those of <run>/metrics.csv, which `logger=csv` writes.

    The clock runs while a process trains: from the opening of its file, a moment before the first
    step. Pauses between processes do not count, nor does what a process did beyond the checkpoint
    from which the next went on.
    """
    points: dict[str, list[Point]] = {}
    processes = [*_processes(folder)] or [*_rows(folder.parent / "metrics.csv")]
    for started, resumed_at, logged in sorted(processes, key=lambda p: p[0]):
        for tag, kept in points.items():
            points[tag] = [point for point in kept if point[0] <= resumed_at]
        before = max((point[1] for kept in points.values() for point in kept), default=0.0)
        for tag, step, wall_time, value in logged:
            points.setdefault(tag, []).append((step, before + wall_time - started, value))
    columns = {tag: np.array(points[tag], float).T for tag in tags if points.get(tag)}
    return {tag: Curve(steps.astype(int), s, v) for tag, (steps, s, v) in columns.items()}


def _processes(folder: Path) -> Iterator[tuple[float, int, list[tuple[str, int, float, float]]]]:
    """Of each event file: when it was opened, the step it went on from, and (tag, optimiser steps,
    time, value). Lightning counts the steps done before the one that it logs, hence the 1."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        started, resumed_at, logged = None, None, []
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load()):
            started = event.wall_time if started is None else started
            if event.session_log.status == SessionLog.START:
                resumed_at = event.step - 1
            for value in event.summary.value:
                told_late = value.tag.startswith("profile_")  # at the end, of steps long past
                if value.WhichOneof("value") == "simple_value" and not told_late:
                    row = (value.tag, event.step + 1, event.wall_time, value.simple_value)
                    logged.append(row)
        if logged and started is not None:
            first = min(step for _, step, _, _ in logged) - 1
            yield started, first if resumed_at is None else min(first, resumed_at), logged


def _rows(path: Path) -> Iterator[tuple[float, int, list[tuple[str, int, float, float]]]]:
    """The same of the processes in a metrics.csv."""
    if not path.is_file():
        return
    found: dict[int, list[tuple[str, int, float, float]]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line cut short
                one = row["tag"], int(row["step"]), float(row["seconds"]), float(row["value"])
                found.setdefault(int(row["process"]), []).append(one)
    before = 0.0
    for process in sorted(found):
        logged = [
            (tag, step, before + seconds, value) for tag, step, seconds, value in found[process]
        ]
        yield before, min(step for _, step, _, _ in logged) - 1, logged
        before = max(at for _, _, at, _ in logged)

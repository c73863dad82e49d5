"""TensorBoard's scalars of a run, and how much training time each took."""

import contextlib
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

Logged = tuple[str, int, float, float]  # tag, optimiser steps, seconds since the start, value
Process = tuple[float, int, list[Logged]]  # when it started, the step it went on from


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
    kept: list[Logged] = []
    processes = [*_of_events(folder)] or [*_of_table(folder.parent / "metrics.csv")]
    for _, resumed_at, logged in sorted(processes, key=lambda process: process[0]):
        kept = [row for row in kept if row[1] <= resumed_at]
        before = max((seconds for _, _, seconds, _ in kept), default=0.0)
        kept += [(tag, step, before + seconds, value) for tag, step, seconds, value in logged]
    curves = {}
    for tag in tags:
        if rows := [row[1:] for row in kept if row[0] == tag]:
            steps, seconds, values = np.array(rows, float).T
            curves[tag] = Curve(steps.astype(int), seconds, values)
    return curves


def _of_events(folder: Path) -> Iterator[Process]:
    """A process for each event file. Lightning counts the steps done before the one that it logs,
    hence the 1."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        started, resumed_at, logged = None, math.inf, []
        for event in map(Event.FromString, RawEventFileLoader(str(path)).Load()):
            started = event.wall_time if started is None else started
            if event.session_log.status == SessionLog.START:
                resumed_at = event.step - 1
            for value in event.summary.value:
                told_late = value.tag.startswith("profile_")  # at the end, of steps long past
                if value.WhichOneof("value") == "simple_value" and not told_late:
                    seconds = event.wall_time - started
                    logged.append((value.tag, event.step + 1, seconds, value.simple_value))
        if logged and started is not None:
            yield started, int(min(resumed_at, _before_first(logged))), logged


def _of_table(path: Path) -> Iterator[Process]:
    """The processes in a metrics.csv, by their numbers."""
    found: dict[int, list[Logged]] = {}
    if path.is_file():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a line cut short
                    one = row["tag"], int(row["step"]), float(row["seconds"]), float(row["value"])
                    found.setdefault(int(row["process"]), []).append(one)
    for process, logged in found.items():
        yield process, _before_first(logged), logged


def _before_first(logged: list[Logged]) -> int:
    return min(step for _, step, _, _ in logged) - 1

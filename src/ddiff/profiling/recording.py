"""torch.profiler on a few steps: operators with shapes and phases, memory, a trace file."""

import gzip
import json
import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddiff.profiling.timeline import OTHER, PHASE, STEP

NAMES = (PHASE, STEP)
ALLOCATORS = frozenset(f"aten::{name}" for name in (
    "empty", "empty_like", "empty_strided", "new_empty", "resize_", "zeros", "zeros_like",
    "new_zeros", "zero_"))  # fmt: skip


def recorder(device: torch.device) -> torch.profiler.profile:
    """torch's profiler; the first step that it records is for itself to warm up."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports its own starts and stops
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=kinds, record_shapes=True, profile_memory=True)


def write_trace(profiler: torch.profiler.profile, path: Path) -> list[dict[str, Any]]:
    """Writes the trace, whole or not at all; returns its events."""
    part = path.with_name(f".part.{path.name}")
    profiler.export_chrome_trace(str(part))
    with gzip.open(part, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    os.replace(part, path)
    return events


@dataclass(frozen=True)
class Turns:
    """Steps and phases of a recording: `at(moment)` gives those of a moment."""

    moments: list[float]
    places: list[tuple[int, str]]  # step from 1, 0 outside; the innermost phase
    steps: int

    @classmethod
    def of(cls, marked: Iterable[tuple[str, float, float]]) -> "Turns":
        """Build the turns from (name, start, end) of steps and phases, nested."""
        marks = sorted(marked, key=lambda mark: (mark[1], -mark[2]))
        steps = [mark for mark in marks if mark[0].startswith(STEP)]
        phases = [mark for mark in marks if not mark[0].startswith(STEP)]
        moments = sorted({moment for _, *ends in marks for moment in ends})
        places = []
        for moment in moments:
            step = [i for i, (_, start, end) in enumerate(steps, 1) if start <= moment < end]
            inside = [name for name, start, end in phases if start <= moment < end]
            name = inside[-1].removeprefix(PHASE) if inside else OTHER
            places.append((step[-1] if step else 0, name))
        return cls(moments, places, len(steps))

    def at(self, moment: float) -> tuple[int, str]:
        i = bisect_right(self.moments, moment) - 1
        return self.places[i] if i >= 0 else (0, OTHER)


def marked_in(events: Sequence[dict[str, Any]]) -> Turns:
    """The turns in the events of a trace file."""
    named = [e for e in events if e.get("cat") == "user_annotation" and e["name"].startswith(NAMES)]
    return Turns.of((e["name"], e["ts"], e["ts"] + e["dur"]) for e in named)


def operators(profiler: torch.profiler.profile, cuda: bool) -> list[dict[str, Any]]:
    """One for each name, shapes and phase: calls, own milliseconds and kept MB, a step."""
    events = [
        event
        for event in profiler.events() or ()
        if event.device_type.name == "CPU" and event.time_range.end > event.time_range.start
    ]
    marked = [event for event in events if event.name.startswith(NAMES)]
    turns = Turns.of((e.name, e.time_range.start, e.time_range.end) for e in marked)
    sums: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for event in events:
        step, phase = turns.at(event.time_range.start)
        if step < 2 or event.is_user_annotation:
            continue
        own = sums[event.name, _shapes(event), phase]
        own["calls"] += 1
        own["ms"] += event.self_cpu_time_total / 1e3
        own["device_ms"] += event.self_device_time_total / 1e3
        keeper = _keeper(event)
        memory = event.self_device_memory_usage if cuda else event.self_cpu_memory_usage
        sums[keeper.name, _shapes(keeper), phase]["mb"] += memory / 1e6
    steps = max(turns.steps - 1, 1)
    found = [
        {"name": name, "shapes": shapes, "phase": phase}
        | {figure: total[figure] / steps for figure in ("calls", "ms", "device_ms", "mb")}
        for (name, shapes, phase), total in sums.items()
    ]
    return sorted(found, key=lambda one: -one["device_ms" if cuda else "ms"])


def _keeper(event: Any) -> Any:
    """Return the operator that asked for an allocation, to which its memory belongs."""
    parent = event.cpu_parent
    while event.name in ALLOCATORS and parent and not parent.is_user_annotation:
        event, parent = parent, parent.cpu_parent
    return event


def _shapes(event: Any) -> str:
    """`8x1x64x64, 3x3`: of the tensors among the arguments."""
    return ", ".join("x".join(map(str, shape)) for shape in event.input_shapes or () if shape)

"""Kernels against their references: largest differences, and times beside a copy's."""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .building import load
from .compilers import Device

COPY_BYTES = 256 << 20  # beyond every cache
BUDGET = 2.0  # seconds: a call that has had them, and three readings, is left out of later rounds
SLICE = 0.005  # seconds: a reading repeats its call for so long

Call = Callable[[], object]
Outputs = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Case:
    """One call of one operation, as `python -m ddiff.kernels` checks and times it."""

    name: str  # "64 x 1 x 64^3, fp32"
    native: Outputs  # runs the kernel, returns its outputs
    reference: Outputs  # the torch reference on the same inputs
    eager: Call  # what one writes in torch today: the baseline of the speed-up
    bytes: int  # that must move: each input read once, each output written once
    tolerance: float  # largest |difference| allowed between native and reference


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of the readings, and half the range of their middle half."""

    median: float
    spread: float
    readings: int

    def milliseconds(self) -> dict[str, float]:
        return {"median": 1000 * self.median, "spread": 1000 * self.spread,
                "readings": self.readings}  # fmt: skip


def measured(case: Case, device: Device, copy: Call | None) -> dict[str, Any]:
    """The figures of a case; times too where there is a copy of COPY_BYTES to compare with."""
    error = max_error(case)
    row = {"case": case.name, "max_error": error, "allowed": case.tolerance}
    row["correct"] = error <= case.tolerance
    if copy is None:
        return row
    calls = {"native": case.native, "reference": case.reference, "eager": case.eager, "copy": copy}
    times = interleaved(calls, device)
    speed = case.bytes / times["native"].median
    copy_speed = 2 * COPY_BYTES / times["copy"].median
    return row | {
        "bytes": case.bytes,
        "milliseconds": {name: timing.milliseconds() for name, timing in times.items()},
        "gb_per_second": speed / 1e9,
        "copy_gb_per_second": copy_speed / 1e9,
        "share_of_copy": speed / copy_speed,
        "speed_up_over_eager": times["eager"].median / times["native"].median,
        "speed_up_over_reference": times["reference"].median / times["native"].median,
    }


def max_error(case: Case) -> float:
    """Largest |native - reference| over all outputs; infinite where their forms differ."""
    native, reference = case.native(), case.reference()
    forms = [[(t.shape, t.dtype, t.device) for t in made] for made in (native, reference)]
    if forms[0] != forms[1]:
        return float("inf")
    pairs = zip(native, reference, strict=True)
    worst = [(a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel()]
    return max((float("inf") if error != error else error for error in worst), default=0.0)


def interleaved(calls: Mapping[str, Call], device: Device, rounds: int = 11) -> dict[str, Timing]:
    """Times every call once a round, so that a disturbance of the machine meets all alike."""
    read = _read_cpu if device == "cpu" else _read_cuda
    readings: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # what is built or allocated at the first call
    spent = dict.fromkeys(calls, 0.0)
    for number in range(rounds):
        for name, call in calls.items():
            if number < 3 or spent[name] < BUDGET:
                started = time.perf_counter()
                readings[name].append(read(call))
                spent[name] += time.perf_counter() - started
    return {name: _timing(values) for name, values in readings.items()}


def copies(device: Device) -> dict[str, Call]:
    """The ways to copy COPY_BYTES in the memory of the device."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    ways: dict[str, Call] = {"torch copy_": lambda: target.copy_(source)}
    if device == "cpu":
        copy = load("stream_copy", "cpu").ddiff_stream_copy
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (target, source)]
        size = ctypes.c_long(COPY_BYTES)
        ways["streaming copy"] = lambda: (copy(*pointers, size), target, source)
    return ways


def fastest_copy(device: Device) -> tuple[str, Call]:
    ways = copies(device)
    times = interleaved(ways, device, rounds=5)
    name = min(times, key=lambda name: times[name].median)
    return name, ways[name]


def _read_cpu(call: Call) -> float:
    """Seconds a call, over as many calls as last SLICE."""
    count, elapsed, started = 0, 0.0, time.perf_counter()
    while elapsed < SLICE or not count:
        call()
        count, elapsed = count + 1, time.perf_counter() - started
    return elapsed / count


def _read_cuda(call: Call) -> float:
    seconds = _events(call, 1)
    return _events(call, max(1, round(SLICE / seconds)))


def _events(call: Call, repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / repeats


def _timing(readings: Sequence[float]) -> Timing:
    low, median, high = statistics.quantiles(readings, n=4, method="inclusive")
    return Timing(median, (high - low) / 2, len(readings))

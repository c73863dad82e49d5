"""Figures as points: in columns of one protocol, as lines over training, against their cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ddiff.config.trees import flat
from ddiff.pages.report.events import Curve

TRAIN_LOSS, VAL_LOSS = "train/loss", "val/loss"
COSTS: Mapping[str, str] = {
    "seconds": "training, seconds",
    "images": "images seen",
    "evaluations": "evaluations of the net a sample",
    "per_sample": "seconds a sample",
    "memory": "peak memory, MB",
}
LENGTH = "length of the average, share of the training"
THINNED = 300  # points of a line; of more, stretches are averaged


@dataclass(frozen=True)
class Point:
    """A figure of one set of samples, or a validation loss; None where a number is unknown."""

    name: str
    protocol_id: str
    protocol: Mapping[str, Any] = field(hash=False)
    better: str | None  # lower or higher
    evaluation: str  # name of its file
    step: int | None  # None for samples of no known weights
    way: str  # how the samples were drawn, in short
    drawn: str  # the same, but for the weights
    length: float | None  # of the average that the weights are; None: no average of a length
    costs: Mapping[str, float | None] = field(hash=False)  # by the names of COSTS
    n: int | None
    value: float | None
    low: float | None
    high: float | None

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.protocol_id


@dataclass(frozen=True)
class Column:
    """A figure under one protocol; `title` tells it from the same figure under another."""

    title: str
    first: Point  # one of them: name, protocol, and which way is better

    @property
    def protocol(self) -> str:
        """The protocol in words: every figure of the column was measured so."""
        first = self.first
        words = [f"{first.better} is better"] if first.better else []
        words += [f"n = {first.n}"] if first.n is not None else []
        return "; ".join(
            words + [f"{name} {value}" for name, value in flat(first.protocol).items()]
        )


@dataclass(frozen=True)
class Series:
    """A value over training: columns of one length, NaN where unknown; `low` and `high` bound each
    value. Of a figure over the lengths of an average, `steps` holds the lengths."""

    steps: np.ndarray
    seconds: np.ndarray
    images: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def columns_of(runs: Sequence[Sequence[Point]]) -> list[Column]:
    """Columns of all points in order of appearance, evaluated figures before validation losses."""
    found: dict[str, dict[str, Point]] = {}  # by name and protocol
    for point in (point for points in runs for point in points):
        if point.value is not None:
            found.setdefault(point.name, {}).setdefault(point.protocol_id, point)
    columns = []
    for name in sorted(found, key=lambda name: name == VAL_LOSS):
        several = len(found[name]) > 1
        for i, first in enumerate(found[name].values(), 1):
            columns.append(Column(f"{name} ({i})" if several else name, first))
    return columns


def cells_of(runs: Sequence[Sequence[Point]], column: Column) -> list[Point | None]:
    """Each run's figure: of its newest weights, sampled in the way that most runs share (among
    equals, that most evaluations used)."""
    held = [[p for p in run if p.key == column.first.key and p.value is not None] for run in runs]
    last = [max((point.step or -1 for point in points), default=-1) for points in held]
    newest = [[p for p in run if (p.step or -1) == at] for run, at in zip(held, last, strict=True)]
    shared = Counter(way for points in newest for way in {point.way for point in points})
    times = Counter(point.way for points in held for point in points)

    def common(point: Point) -> tuple[int, int, str, str]:
        return -shared[point.way], -times[point.way], point.way, point.evaluation

    return [min(points, key=common, default=None) for points in newest]


def over_training(curve: Curve, images_per_step: float | None) -> Series:
    """A logged scalar, thinned to THINNED points."""
    images = curve.steps * (images_per_step or np.nan)
    table = np.stack([curve.steps, curve.seconds, images, curve.values])  # [4, N]
    if table.shape[1] > THINNED:
        parts = np.array_split(table, THINNED, axis=1)
        table = np.stack([part.mean(axis=1) for part in parts], axis=1)
    return Series(*table, *np.full((2, table.shape[1]), np.nan))


def over_evaluations(points: Sequence[Point], cell: Point) -> Series | None:
    """A figure over all evaluations that sampled as the cell's did; None for foreign samples."""
    rows: dict[int, list[float | None]] = {}
    for point in points:
        same = point.key == cell.key and point.way == cell.way
        if same and point.step is not None and point.value is not None:
            place = [point.step, point.costs["seconds"], point.costs["images"]]
            rows.setdefault(point.step, [*place, point.value, point.low, point.high])
    return Series(*np.array([rows[step] for step in sorted(rows)], float).T) if rows else None


def over_lengths(points: Sequence[Point], column: Column) -> Series | None:
    """A figure over the lengths of averages of the newest weights; None for less than two lengths.

    Of several ways of drawing, the line is of the one that most lengths were evaluated in.
    """
    there = [p for p in points if p.key == column.first.key and p.value is not None]
    there = [p for p in there if p.length is not None]
    newest = max((point.step or -1 for point in there), default=-1)
    ways: dict[str, dict[float, list[float | None]]] = {}
    for point in there:
        if (point.step or -1) == newest and point.length is not None:
            row = [point.length, None, None, point.value, point.low, point.high]
            ways.setdefault(point.drawn, {}).setdefault(point.length, row)
    rows = max(ways.values(), key=len, default={})
    return Series(*np.array([rows[n] for n in sorted(rows)], float).T) if len(rows) > 1 else None


def averaged(lines: Sequence[Series]) -> Series | None:
    """The mean over runs within one standard deviation, at the steps that all have."""
    if len(lines) < 2:
        return lines[0] if lines else None
    shared = sorted(set.intersection(*(set(line.steps.tolist()) for line in lines)))
    if not shared:
        return None
    rows = [np.searchsorted(line.steps, shared) for line in lines]
    seconds, images, values = (
        np.stack([getattr(line, name)[row] for line, row in zip(lines, rows, strict=True)])
        for name in ("seconds", "images", "values")
    )
    mean, std = values.mean(0), values.std(0, ddof=1)
    return Series(np.array(shared), seconds.mean(0), images.mean(0), mean, mean - std, mean + std)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds (None of one)."""
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def front(points: Sequence[tuple[float, float]], better: str) -> list[bool]:
    """Return True for each (cost, quality) that no other point beats.

    A point is beaten by one that costs less and is as good, or costs as much and is better. Equal
    points are treated alike.
    """
    sign = 1 if better == "lower" else -1
    signed = [(cost, sign * quality) for cost, quality in points]
    best, standing = float("inf"), set()
    for point in sorted(set(signed)):
        if point[1] < best:
            best = point[1]
            standing.add(point)
    return [point in standing for point in signed]

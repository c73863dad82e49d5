"""A value over training: of one run, and the mean over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddiff.pages.report.columns import Cell, costs, measured, sampling
from ddiff.pages.report.records import Record

POINTS = 300  # of a line; more are averaged in stretches


@dataclass(frozen=True)
class Series:
    """Columns of one length, NaN where unknown; `low` and `high` bound each value."""

    steps: np.ndarray
    seconds: np.ndarray
    images: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def over(self, axis: str) -> np.ndarray:
        return {"steps": self.steps, "seconds": self.seconds, "images": self.images}[axis]


def of_scalar(record: Record, tag: str) -> Series | None:
    """A logged scalar, thinned to POINTS."""
    curve = record.curves.get(tag)
    if curve is None:
        return None
    images = curve.steps * (record.images_per_step or np.nan)
    table = np.stack([curve.steps, curve.seconds, images, curve.values])  # [4, N]
    if table.shape[1] > POINTS:
        parts = np.array_split(table, POINTS, axis=1)
        table = np.stack([part.mean(axis=1) for part in parts], axis=1)
    steps, seconds, images, values = table
    return Series(steps, seconds, images, values, *np.full((2, len(steps)), np.nan))


def of_figure(record: Record, cell: Cell) -> Series | None:
    """A figure over all evaluations that sampled as the cell's did; None for foreign samples."""
    key, way = (cell.figure.name, cell.figure.protocol_id), sampling(cell.evaluation)
    rows: dict[int, list[float | None]] = {}
    for evaluation in measured(record):
        for figure in evaluation.figures:
            same = (figure.name, figure.protocol_id) == key and sampling(evaluation) == way
            if same and evaluation.step is not None and figure.value is not None:
                cost = costs(record, evaluation)
                place = [evaluation.step, cost["seconds"], cost["images"]]
                rows.setdefault(evaluation.step, [*place, figure.value, figure.low, figure.high])
    if not rows:
        return None
    return Series(*np.array([rows[step] for step in sorted(rows)], float).T)


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

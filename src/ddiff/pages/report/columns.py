"""Figures in columns, one protocol to a column; spread over seeds; quality against cost."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddiff.config.trees import flat
from ddiff.pages.report.configs import shown
from ddiff.pages.report.records import Evaluation, Measured, Record, finite

VAL_LOSS = "val/loss"
FREE = ("data.batch_size", "data.num_workers", "data.seed")  # what a validation loss does not say
Key = tuple[str, str]  # name and protocol_id


@dataclass(frozen=True)
class Column:
    """A figure under one protocol; `title` tells it from the same figure under another."""

    title: str
    figure: Measured  # one of them: name, protocol, and which way is better

    @property
    def key(self) -> Key:
        return self.figure.name, self.figure.protocol_id

    @property
    def protocol(self) -> str:
        """In words: every figure of the column was measured so."""
        better = {"lower": "lower is better", "higher": "higher is better"}
        words = [better.get(self.figure.better or "", "")]
        words += [f"n = {self.figure.n}" if self.figure.n is not None else ""]
        words += [f"{name} {value}" for name, value in flat(self.figure.protocol).items()]
        return "; ".join(filter(None, words))


@dataclass(frozen=True)
class Cell:
    figure: Measured
    evaluation: Evaluation


def measured(record: Record) -> list[Evaluation]:
    """All evaluations of a run, and its validation losses as such."""
    curve = record.curves.get(VAL_LOSS)
    if curve is None:
        return record.evaluations
    protocol = _validation(record)
    text = json.dumps(protocol, sort_keys=True, default=str)
    name = VAL_LOSS, hashlib.sha256(text.encode()).hexdigest()[:6]
    losses = [
        Evaluation(
            name=VAL_LOSS,
            step=int(step),
            images=None,
            seconds=float(seconds),
            sampling={},
            figures=[Measured(*name, finite(value), better="lower", protocol=protocol)],
        )
        for step, seconds, value in zip(curve.steps, curve.seconds, curve.values, strict=True)
    ]
    return [*record.evaluations, *losses]


def _validation(record: Record) -> dict[str, Any]:
    """What two validation losses must share to be compared."""
    options = record.options
    groups = ("schedule.", "data.", "objective._target_", "module._target_")
    found = {
        name.removesuffix("._target_"): shown(name, value)
        for name, value in options.items()
        if name.startswith(groups) and name not in FREE
    }
    limit = options.get("trainer.limit_val_batches", "None")
    if limit != "None":
        found["batches"] = f"{limit} of {options.get('data.batch_size')}"
    return found


def columns_of(records: Sequence[Record]) -> list[Column]:
    """In order of appearance, evaluated figures before validation losses."""
    found: dict[Key, Measured] = {}
    for record in records:
        for evaluation in measured(record):
            for figure in evaluation.figures:
                if figure.value is not None:
                    found.setdefault((figure.name, figure.protocol_id), figure)
    names = list(dict.fromkeys(name for name, _ in found))
    columns = []
    for name in sorted(names, key=lambda name: name == VAL_LOSS):
        figures = [figure for key, figure in found.items() if key[0] == name]
        marks = [f" ({i})" for i in range(1, len(figures) + 1)] if len(figures) > 1 else [""]
        columns += [Column(name + m, figure) for m, figure in zip(marks, figures, strict=True)]
    return columns


def cells_of(records: Sequence[Record], column: Column) -> list[Cell | None]:
    """Each run's figure: of its newest weights, sampled in the way that most runs share (among
    equals, that most evaluations used)."""
    held = [_held(record, column.key) for record in records]
    newest = [_newest(cells) for cells in held]
    runs = Counter(way for cells in newest for way in {sampling(c.evaluation) for c in cells})
    times = Counter(sampling(cell.evaluation) for cells in held for cell in cells)

    def common(cell: Cell) -> tuple[int, int, str, str]:
        way = sampling(cell.evaluation)
        return -runs[way], -times[way], way, cell.evaluation.name

    return [min(cells, key=common) if cells else None for cells in newest]


def _held(record: Record, key: Key) -> list[Cell]:
    return [
        Cell(figure, evaluation)
        for evaluation in measured(record)
        for figure in evaluation.figures
        if (figure.name, figure.protocol_id) == key and figure.value is not None
    ]


def _newest(cells: Sequence[Cell]) -> list[Cell]:
    last = max((cell.evaluation.step or -1 for cell in cells), default=None)
    return [cell for cell in cells if (cell.evaluation.step or -1) == last]


def sampling(evaluation: Evaluation) -> str:
    """How the samples were drawn, in short: `ddim 50 w=2`."""
    get = evaluation.sampling.get
    words = [str(get("solver") or ""), str(get("num_steps") or "")]
    words += [f"w={get('guidance'):g}"] if finite(get("guidance")) else []
    words += [f"{get('weights')} weights"] if get("weights") not in (None, "ema") else []
    words += [str(get("precision"))] if get("precision") else []
    return " ".join(filter(None, words))


def costs(record: Record, evaluation: Evaluation) -> dict[str, float | None]:
    """What the figures of an evaluation cost, by the names of COSTS."""
    step, per_step = evaluation.step, record.images_per_step
    seconds, images = evaluation.seconds, evaluation.images
    if step is not None:
        seconds = record.seconds_at(step) if seconds is None else seconds
        images = step * per_step if images is None and per_step else images
    return {
        "seconds": seconds,
        "images": images,
        "evaluations": finite(evaluation.sampling.get("evaluations")),
        "per_sample": finite(evaluation.sampling.get("seconds_per_sample")),
        "memory": record.memory_mb,
    }


COSTS: Mapping[str, str] = {
    "seconds": "training, seconds",
    "images": "images seen",
    "evaluations": "evaluations of the net a sample",
    "per_sample": "seconds a sample",
    "memory": "peak memory, MB",
}


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds (None of one)."""
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def front(points: Sequence[tuple[float, float]], better: str) -> list[bool]:
    """Which (cost, quality) no other beats: none costs less and is as good, or as much and is
    better. Equal points stand or fall together."""
    sign = 1 if better == "lower" else -1
    signed = [(cost, sign * quality) for cost, quality in points]
    best, standing = float("inf"), set()
    for point in sorted(set(signed)):
        if point[1] < best:
            best = point[1]
            standing.add(point)
    return [point in standing for point in signed]

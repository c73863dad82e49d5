"""Input and output of a metric: a case, and figures with their interval and protocol.

A figure means nothing without its protocol.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ddiff.data.base import Data
from ddiff.data.opening import Stack
from ddiff.metrics.features import Extractor, Features
from ddiff.nets.conditions import TEXT, Layout, decode_text
from ddiff.system.errors import DdiffError

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Figure:
    """A measured value of `n` samples; `low` and `high` bound its 95% interval.

    Two figures may stand in one column only if name and protocol agree.
    """

    name: str
    value: float
    n: int
    protocol: Mapping[str, Any] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    better: Better | None = None

    @property
    def protocol_id(self) -> str:
        """Six hexadecimal digits, a hash of name, n and protocol, which must agree in a column."""
        text = json.dumps([self.name, self.n, dict(self.protocol)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:6]

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "protocol_id": self.protocol_id}


@dataclass(frozen=True)
class Omitted:
    """A figure that a metric cannot give in this case, and why: shown in place of a number."""

    name: str
    why: str


@dataclass(frozen=True, eq=False)
class Case:
    """Input of a metric: the samples, and what they are compared with.

    `train` is what the model learned from, `held_out` what it never saw. A reference of the user is
    `held_out`; `train` is then None. `paired`: sample i belongs to held_out i, and `versions`
    samples one after the other belong to the same one.
    """

    samples: Stack
    train: Stack | None
    held_out: Stack
    make_extractor: Callable[[], Extractor]
    data: Data | None = None  # its law may be known
    paired: bool = False
    versions: int = 1
    cache: Path | None = None  # of the features of references
    seed: int = 0
    asked: Tensor | None = None  # rows [N, K] of what was asked of the samples
    layout: Layout | None = None  # of these rows

    @property
    def reference(self) -> Stack:
        """The stack that distributions are compared with: the training set, else `held_out`."""
        return self.train or self.held_out

    @property
    def volumes(self) -> bool:
        return len(self.samples.shape) == 4

    @property
    def y(self) -> Tensor | None:
        """The labels that were asked for, [N]; None without labels.

        A text asks for the class that the data read in it.
        """
        labels, layout = self.samples.labels, self.layout
        if labels is not None or self.asked is None or layout is None:
            return labels
        if (labels := layout.classes(self.asked)) is not None or not layout.length:
            return labels
        texts = [decode_text(codes) for codes in layout.part(self.asked, TEXT)]
        known = [self.data.class_in(text) if self.data and text else None for text in texts]
        return None if None in known else torch.tensor(known)

    @cached_property
    def extractor(self) -> Extractor:
        return self.make_extractor()

    @cached_property
    def no_features(self) -> str | None:
        """The reason why there are no features; None if there are."""
        try:
            _ = self.extractor
        except DdiffError as error:
            return str(error)
        return None

    @cached_property
    def features(self) -> Features:
        return Features.of(self.samples, self.extractor)

    @cached_property
    def reference_features(self) -> Features:
        return Features.cached(self.reference, self.extractor, self.cache)


class Metric(Protocol):
    """One measurement; `metrics=` is a list of them."""

    def obstacle(self, case: Case) -> str | None:
        """Return the reason why this case cannot be measured; None if it can."""
        ...

    def __call__(self, case: Case) -> Sequence[Figure | Omitted]: ...


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any] = np.mean,
    seed: int = 0,
    repeats: int = 1000,
    centred: bool = False,
) -> tuple[float, float]:
    """The 95% percentile interval of a statistic of `values` [N, ...], by bootstrap.

    The values are drawn N times with replacement. `centred` centres the interval on the statistic
    itself, for a statistic whose bias is added again by every repeat.
    """
    values, random = np.asarray(values), np.random.default_rng(seed)
    n = len(values)
    drawn = [float(statistic(values[random.integers(0, n, n)])) for _ in range(repeats)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    if centred:
        low, high = (end - np.mean(drawn) + statistic(values) for end in (low, high))
    return float(low), float(high)


def wilson(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927), from values 0 and 1, or probabilities between."""
    n, p, z = len(values), float(np.mean(values)), 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return 0.0 if p == 0 else middle - reach, 1.0 if p == 1 else middle + reach  # exact ends


def mean_figure(
    name: str, values: np.ndarray, how: Mapping[str, Any], better: Better | None, seed: int
) -> Figure:
    """Figure of the mean of a number per sample, with its bootstrap interval.

    There is no interval if a number is infinite.
    """
    low, high = bootstrap(values, seed=seed) if np.isfinite(values).all() else (None, None)
    return Figure(name, float(values.mean()), len(values), how, low, high, better)


def share_figure(
    name: str, values: np.ndarray | Tensor, how: Mapping[str, Any], better: Better | None
) -> Figure:
    """Figure of the share of samples for which something holds, with Wilson's interval.

    `values` are 0 or 1 per sample, or its probability where ties leave that open. A bootstrap of
    only ones or zeros would have no width, as if a share of 100 samples were known exactly.
    """
    values = np.asarray(values, dtype=np.float64)
    assert ((values >= 0) & (values <= 1)).all(), name
    low, high = wilson(values)
    return Figure(name, float(values.mean()), len(values), how, low, high, better)


def median_figure(
    name: str, values: np.ndarray, how: Mapping[str, Any], better: Better | None, seed: int
) -> Figure:
    low, high = bootstrap(values, np.median, seed)
    value, how = float(np.median(values)), {**how, "of": "median"}
    return Figure(name, value, len(values), how, low, high, better)


def law_figures(
    name: str, test: tuple[float, float], n: int, how: Mapping[str, Any]
) -> list[Figure]:
    """Figures D and p of a test of whether numbers follow their law."""
    d, p = test
    return [Figure(f"{name}_d", d, n, how, better="lower"), Figure(f"{name}_p", p, n, how)]

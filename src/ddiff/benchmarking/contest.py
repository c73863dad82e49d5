"""What runs against what, and what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from ddiff.benchmarking.racing import Contestant, Outcome

Fidelity = dict[str, float | None]
Judge = Callable[[Sequence[Tensor | None]], list[Fidelity]]  # of every contestant's last work


@dataclass(frozen=True, eq=False)
class Choice:
    """An option of a group as it was typed, `compiled+regional`, and its config."""

    text: str
    node: DictConfig


@dataclass(frozen=True, eq=False)
class Contest:
    """Contestants that do the same work; the first is the measure of the others."""

    title: str
    facts: dict[str, Any]  # what is the same for all of them
    batch_size: int
    contestants: Sequence[Contestant]
    judge: Judge


@dataclass(frozen=True, eq=False)
class Row:
    """What a contestant did. `ratios` are the first row's time over this row's in each round."""

    backend: str
    precision: str
    batch_size: int
    outcome: Outcome
    ratios: list[float]
    fidelity: Fidelity

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Of the seconds of a batch or a training step."""
        low, middle, high = np.quantile(self.outcome.seconds, (0.25, 0.5, 0.75)).tolist()
        return low, middle, high

    @property
    def per_sample(self) -> tuple[float, float, float]:
        low, middle, high = (seconds / self.batch_size for seconds in self.quartiles)
        return low, middle, high

    @property
    def rate(self) -> float:
        """Samples a second."""
        return 1 / self.per_sample[1]

    @property
    def ratio(self) -> float:
        return float(np.median(self.ratios))

    @property
    def cold_start(self) -> float:
        """Seconds that the first run took longer than a steady one."""
        return max(0.0, self.outcome.first - self.quartiles[1])

    def plain(self) -> dict[str, Any]:
        """As it stands in benchmark.json."""
        name = {"backend": self.backend, "precision": self.precision}
        if self.outcome.trouble:
            return {**name, "cannot_run": self.outcome.trouble}
        low, middle, high = self.quartiles
        return {
            **name,
            "seconds": {"median": middle, "quartiles": [low, high], "all": self.outcome.seconds},
            "seconds_per_sample": self.per_sample[1],
            "samples_per_second": self.rate,
            "speed_up": {"median": self.ratio, "all": self.ratios},
            "cold_start_seconds": self.cold_start,
            "first_run_seconds": self.outcome.first,
            "compiled_graphs": self.outcome.graphs,
            "recompiles": self.outcome.recompiles,
            "memory_bytes": self.outcome.memory,
            "fidelity": self.fidelity,
        }


def rows_of(contest: Contest, outcomes: Sequence[Outcome]) -> list[Row]:
    first = outcomes[0].seconds
    fidelities = contest.judge([outcome.last for outcome in outcomes])
    rows = []
    for who, outcome, fidelity in zip(contest.contestants, outcomes, fidelities, strict=True):
        ratios = [a / b for a, b in zip(first, outcome.seconds, strict=False)]
        row = Row(who.backend, who.precision, contest.batch_size, outcome, ratios, fidelity)
        rows.append(row)
    return rows

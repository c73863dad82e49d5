"""Races that a finished study could have been: would they have named its winner?

The validations on the way say what a race would have seen at its rungs, so every set of seeds of
the study is a race that can be run again without training anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ddiff.pages.report.events import read_scalars
from ddiff.study.figures import Better
from ddiff.study.racing import go_on

PARTS = tuple(part / 10 for part in range(1, 10))  # of the budget, at which a rung may be
RACES = (((0.1, 0.3), 0.34), ((0.2,), 0.2), ((0.3,), 0.1), ((0.3,), 0.34), ((0.5,), 0.34))
LEAST = 2  # seeds of a race
# variant -> seed -> values at PARTS, and at the end
Curves = Mapping[str, Mapping[int, np.ndarray]]


@dataclass(frozen=True)
class Hindsight:
    """One kind of race, run with every set of two or more of the study's seeds."""

    rungs: tuple[float, ...]
    share: float
    work: float  # the part of the full study's steps that it takes
    races: int
    right: int  # that named the winner of the full study
    regret: float  # mean over the races: how much worse their winner ended, as a part


def hindsight(curves: Curves, better: Better) -> list[Hindsight]:
    """Run the races again. [] without two variants and two seeds that all have.

    The winner is that of the full study: of all seeds, at the end.
    """
    seeds = sorted(set.intersection(*map(set, curves.values()))) if curves else []
    if len(curves) < 2 or len(seeds) < LEAST:
        return []
    end = {name: float(np.mean([of[s][-1] for s in seeds])) for name, of in curves.items()}
    best = (min if better == "lower" else max)(end, key=end.__getitem__)
    sets = [s for n in range(LEAST, len(seeds) + 1) for s in combinations(seeds, n)]
    found = []
    for rungs, share in RACES:
        winners = [race(curves, chosen, better, rungs, share) for chosen in sets]
        found.append(
            Hindsight(
                rungs=rungs,
                share=share,
                work=work(len(curves), rungs, share),
                races=len(sets),
                right=sum(winner == best for winner in winners),
                regret=float(np.mean([abs(end[w] / end[best] - 1) for w in winners])),
            )
        )
    return found


def race(
    curves: Curves, seeds: tuple[int, ...], better: Better, rungs: tuple[float, ...], share: float
) -> str:
    """The winner of a race with these seeds."""
    names = list(curves)
    for rung in rungs:
        at = PARTS.index(rung)
        figures = {name: {s: float(curves[name][s][at]) for s in seeds} for name in names}
        names = go_on(figures, share, better)
    ends = {name: float(np.mean([curves[name][s][-1] for s in seeds])) for name in names}
    return (min if better == "lower" else max)(ends, key=ends.__getitem__)


def work(variants: int, rungs: tuple[float, ...], share: float) -> float:
    """The part of the full study's steps that a race of so many variants takes."""
    alive, before, total = variants, 0.0, 0.0
    for rung in (*rungs, 1.0):
        total += alive * (rung - before)
        before, alive = rung, max(1, round(share * alive))
    return total / variants


def on_the_way(run: Path, name: str, steps: int) -> np.ndarray | None:
    """A logged figure of a finished run at PARTS and at its end; None where it has none.

    Where no validation lies at a part, the one before it counts.
    """
    curve = read_scalars(run / "tensorboard", [name]).get(name)
    if curve is None or not len(curve.steps) or curve.steps[-1] != steps:
        return None
    places = [int((curve.steps <= part * steps + 1).sum()) - 1 for part in PARTS]
    if places[0] < 0:
        return None
    return curve.values[[*places, len(curve.values) - 1]]

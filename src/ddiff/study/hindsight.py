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

RUNGS, SHARE = (0.1, 0.3), 0.34
Curves = Mapping[str, Mapping[int, np.ndarray]]  # variant -> seed -> values at RUNGS and the end


@dataclass(frozen=True)
class Hindsight:
    """Races with so many of the study's seeds: all sets of that many."""

    seeds: int
    races: int
    right: int  # that named the winner of the full study
    regret: float  # mean over the races: how much worse their winner ended, as a part
    work: float  # the part of the full study's steps that such a race takes


def hindsight(curves: Curves, better: Better) -> list[Hindsight]:
    """Run the races of 1, 2, ... and all seeds again. [] without two variants that all seeds have.

    The winner is that of the full study: of all seeds, at the end.
    """
    seeds = sorted(set.intersection(*map(set, curves.values()))) if curves else []
    if len(curves) < 2 or not seeds:
        return []
    end = {name: float(np.mean([of[s][-1] for s in seeds])) for name, of in curves.items()}
    best = (min if better == "lower" else max)(end, key=end.__getitem__)
    found = []
    for number in range(1, len(seeds) + 1):
        sets = list(combinations(seeds, number))
        winners = [race(curves, chosen, better) for chosen in sets]
        found.append(
            Hindsight(
                seeds=number,
                races=len(sets),
                right=sum(winner == best for winner in winners),
                regret=float(np.mean([abs(end[w] / end[best] - 1) for w in winners])),
                work=work(len(curves)),
            )
        )
    return found


def race(curves: Curves, seeds: tuple[int, ...], better: Better) -> str:
    """The winner of the race with these seeds."""
    names = list(curves)
    for rung in range(len(RUNGS)):
        figures = {name: {s: float(curves[name][s][rung]) for s in seeds} for name in names}
        names = go_on(figures, SHARE, better)
    ends = {name: float(np.mean([curves[name][s][-1] for s in seeds])) for name in names}
    return (min if better == "lower" else max)(ends, key=ends.__getitem__)


def work(variants: int, rungs: tuple[float, ...] = RUNGS, share: float = SHARE) -> float:
    """The part of the full study's steps that a race of so many variants takes."""
    alive, before, total = variants, 0.0, 0.0
    for rung in (*rungs, 1.0):
        total += alive * (rung - before)
        before, alive = rung, max(1, round(share * alive))
    return total / variants


def on_the_way(run: Path, name: str, steps: int) -> np.ndarray | None:
    """A logged figure of a finished run at the rungs and at its end; None where it has none.

    At a rung that is between two validations the earlier one counts.
    """
    curve = read_scalars(run / "tensorboard", [name]).get(name)
    if curve is None or not len(curve.steps) or curve.steps[-1] != steps:
        return None
    places = [int((curve.steps <= round(rung * steps) + 1).sum()) - 1 for rung in RUNGS]
    if places[0] < 0:
        return None
    return curve.values[[*places, len(curve.values) - 1]]

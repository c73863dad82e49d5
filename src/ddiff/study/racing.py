"""Races: which variants go on at a rung.

Successive halving (Jamieson and Talwalkar 2016): at each rung, a part of the budget, a share of the
variants goes on and the others are paused. A decision is a function of figures on the disk, so a
study that is started again decides the same.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ddiff.study.figures import Better


def go_on(
    figures: Mapping[str, Mapping[int, float]],
    share: float,
    better: Better,
    keep: Sequence[str] = (),
) -> list[str]:
    """The variants that go on, in the order of `figures`: {variant: {seed: the deciding figure}}.

    The best `share` of them by their mean over the seeds that all have, at least one, and those in
    `keep`. A variant without figures has failed, and does not go on.
    """
    found = {name: of for name, of in figures.items() if of}
    if not found:
        return []
    common = set.intersection(*(set(of) for of in found.values()))
    means = {
        name: float(np.mean([of[seed] for seed in sorted(common or of)]))
        for name, of in found.items()
    }
    sign = 1 if better == "lower" else -1
    ranked = sorted(means, key=lambda name: sign * means[name])
    best = ranked[: max(1, round(share * len(ranked)))]
    return [name for name in found if name in best or name in keep]


def rung_steps(steps: int, rungs: Sequence[float]) -> list[int]:
    """The steps at which a training of so many steps stops: at each rung, and at the end."""
    found = [min(steps, max(1, round(rung * steps))) for rung in rungs]
    return [*found, steps]

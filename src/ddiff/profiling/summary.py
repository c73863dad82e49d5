"""What the times of many steps come to."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ddiff.profiling.timeline import OTHER, Ledger

ORDER = ("data", "timesteps", "noise", "guidance", "forward", "net", "loss", "backward",
         "solver step", "replay", "optimiser", "EMA", "logging")  # fmt: skip
PERCENTILES = (50, 90, 99)
POINTS = 20  # of a curve over the training


def phases_of(ledger: Ledger) -> dict[str, np.ndarray]:
    """Seconds by phase, [steps] each, in the order in which a step has them; "other" last."""
    known = [name for name in ORDER if name in ledger.seconds]
    more = sorted(ledger.seconds.keys() - {*ORDER, OTHER})
    zeros = np.zeros(len(ledger.numbers), np.float32)
    names = [*known, *more, OTHER]
    return {name: np.asarray(ledger.seconds.get(name, zeros), np.float64) for name in names}


def summary(phases: dict[str, np.ndarray]) -> dict[str, Any]:
    """Milliseconds a step and shares by phase, and percentiles of the whole step."""
    total = np.sum(list(phases.values()), axis=0)
    return {
        "step_ms": {
            "mean": 1e3 * total.mean(),
            **{f"p{p}": 1e3 * np.percentile(total, p) for p in PERCENTILES},
        },
        "phases": {
            name: {"ms": 1e3 * seconds.mean(), "share": seconds.sum() / total.sum()}
            for name, seconds in phases.items()
        },
    }


def curves(ledger: Ledger, first: int) -> Iterator[tuple[str, float, int]]:
    """(tag, value, step) over at most POINTS stretches of the steps; `first` steps came before."""
    phases = phases_of(ledger)
    for part in np.array_split(np.arange(len(ledger.numbers)), POINTS):
        if not len(part):
            continue
        found = summary({name: seconds[part] for name, seconds in phases.items()})
        at = first + ledger.numbers[part[-1]]
        for name, value in found["phases"].items():
            yield f"profile_share/{name}", value["share"], at
            yield f"profile_ms/{name}", value["ms"], at
        for name, value in found["step_ms"].items():
            yield f"profile_step_ms/{name}", value, at

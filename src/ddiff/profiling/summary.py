"""Summaries of the times of many steps: figures, curves, and tables for people."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ddiff.profiling.timeline import OTHER, Ledger

ORDER = ("data", "timesteps", "noise", "guidance", "forward", "net", "loss", "backward",
         "solver step", "replay", "optimiser", "EMA", "logging")  # fmt: skip
PERCENTILES = (50, 90, 99)
POINTS = 20  # of a curve over the training
TOP = 20  # operators in a table
Table = tuple[list[str], list[list[str]]]  # header, rows


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


def phases_table(profile: dict[str, Any]) -> Table:
    rows = [
        [name, f"{one['ms']:.2f}", f"{100 * one['share']:.1f}%"]
        for name, one in profile["phases"].items()
    ]
    rows.append(["step", f"{profile['step_ms']['mean']:.2f}", "100%"])
    return ["phase", "ms a step", "share"], rows


def operators_table(operators: Sequence[dict[str, Any]], by: str, cuda: bool) -> Table:
    """The operators with the most of `ms`, `device_ms` or `mb`."""
    ranked = sorted(operators, key=lambda one: -one[by])[:TOP]
    header = ["operator", "shapes", "phase", "calls", "own ms"]
    header += ["device ms", "kept MB"] if cuda else ["kept MB"]
    rows = [
        [one["name"], one["shapes"], one["phase"], f"{one['calls']:.4g}", f"{one['ms']:.3f}",
         *([f"{one['device_ms']:.3f}"] if cuda else []), f"{one['mb']:.3f}"]
        for one in ranked if one[by] > 0
    ]  # fmt: skip
    return header, rows


def in_words(profile: dict[str, Any]) -> str:
    """`98.1 ms (p50), 103 (p90), 110 (p99) over 42 steps`."""
    p50, p90, p99 = (f"{profile['step_ms'][f'p{p}']:.4g}" for p in PERCENTILES)
    return f"{p50} ms (p50), {p90} (p90), {p99} (p99) over {profile['steps']['timed']} steps"


def markdown(table: Table) -> str:
    """The table as TensorBoard shows it, columns of numbers to the right."""
    header, rows = table

    def numeric(column: int) -> bool:
        return all(row[column].rstrip("%").replace(".", "").isdigit() for row in rows)

    ruler = ["---", *("---:" if numeric(i) else "---" for i in range(1, len(header)))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ruler, *rows])

"""A profile as tables: for the terminal, for TensorBoard."""

from collections.abc import Sequence
from typing import Any

Table = tuple[list[str], list[list[str]]]  # header, rows
TOP = 20


def phases(profile: dict[str, Any]) -> Table:
    rows = [
        [name, f"{one['ms']:.2f}", f"{100 * one['share']:.1f}%"]
        for name, one in profile["phases"].items()
    ]
    rows.append(["step", f"{profile['step_ms']['mean']:.2f}", "100%"])
    return ["phase", "ms a step", "share"], rows


def steps(profile: dict[str, Any]) -> str:
    """`step 98.1 ms (p50), 103 (p90), 110 (p99) over 42 steps`."""
    ms = profile["step_ms"]
    p50, p90, p99 = (f"{ms[name]:.4g}" for name in ("p50", "p90", "p99"))
    return f"{p50} ms (p50), {p90} (p90), {p99} (p99) over {profile['steps']['timed']} steps"


def apart(profile: dict[str, Any]) -> str:
    """What is beside the steps: `validation 1.3 s`."""
    return ", ".join(f"{name} {s:.3g} s" for name, s in profile["apart_seconds"].items())


def top(operators: Sequence[dict[str, Any]], by: str, cuda: bool) -> Table:
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


def markdown(table: Table) -> str:
    header, rows = table
    lines = [header, ["---", *["---:" if _numeric(rows, i) else "---"
                               for i in range(1, len(header))]], *rows]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    return all(row[column].rstrip("%").replace(".", "").isdigit() for row in rows)

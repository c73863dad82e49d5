"""What changed between profiles: phase by phase, operator by operator, and in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ddiff.pages.report.comparison import Comparison
from ddiff.pages.report.configs import ABSENT
from ddiff.pages.report.looks import number

Row = tuple[str, float | None, float | None]  # name, before, after
TOP = 15  # operators, by what they gained or lost


@dataclass(frozen=True)
class Table:
    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Change:
    """One profile against that of the first run which has one of its kind."""

    title: str
    tables: list[Table]


def changes(comparison: Comparison) -> list[Change]:
    return list(_changes(comparison))


def _changes(comparison: Comparison) -> Iterator[Change]:
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        for kind, profile in run.profiles.items():
            before = first.setdefault(kind, (label, profile))
            if before[1] is not profile:
                title = f"{kind}: {before[0]} → {label}"
                yield Change(title, _tables(before[1], profile))


def _tables(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Table]:
    phases = [_flat(profile["phases"], "ms") for profile in (before, after)]
    rows = _rows(*phases)
    rows += [(f"step, {name}", before["step_ms"][name], after["step_ms"][name])
             for name in ("mean", "p50", "p90", "p99")]  # fmt: skip
    tables = [Table("phase, ms a step", rows)]
    if "operators" in before and "operators" in after:
        key = "device_ms" if after["device"] == "cuda" else "ms"
        found = _rows(*(_by_name(profile["operators"], key) for profile in (before, after)))
        found.sort(key=lambda row: -abs((row[2] or 0) - (row[1] or 0)))
        tables.append(Table("operator, own ms a recorded step", found[:TOP]))
        held = [dict(p["memory_mb"]["at_peak"]) for p in (before, after)]
        peak = ("peak", before["memory_mb"]["peak"], after["memory_mb"]["peak"])
        tables.append(Table("memory at its peak, MB", [*_rows(*held), peak]))
    return tables


def _flat(named: Mapping[str, Any], key: str) -> dict[str, float]:
    return {name: one[key] for name, one in named.items()}


def _by_name(operators: list[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Over all shapes and phases."""
    total: dict[str, float] = {}
    for one in operators:
        total[one["name"]] = total.get(one["name"], 0.0) + one[key]
    return total


def _rows(before: Mapping[str, float], after: Mapping[str, float]) -> list[Row]:
    """What is in neither's place is None there."""
    return [(name, before.get(name), after.get(name)) for name in {**before, **after}]


def words(table: Table) -> tuple[list[str], list[list[str]]]:
    """As text: header and rows."""
    return (
        [table.title, "before", "after", "difference"],
        [[name, _said(one), _said(two), difference(one, two)] for name, one, two in table.rows],
    )


def _said(value: float | None) -> str:
    return ABSENT if value is None else number(round(value, 4))


def difference(before: float | None, after: float | None) -> str:
    """`-1.2 (-12%)`; what is missing counts as nothing."""
    change = (after or 0.0) - (before or 0.0)
    share = f" ({change / before:+.0%})" if before and after else ""
    return f"{change:+.3g}{share}"

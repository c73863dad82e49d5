"""The report as one self-contained page: what its scripts are given."""

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddiff.pages.report.columns import COSTS, VAL_LOSS, costs, measured, sampling
from ddiff.pages.report.comparison import Comparison
from ddiff.pages.report.looks import colour, dashes
from ddiff.pages.report.markdown import CLOCK, device
from ddiff.pages.report.profiles import changes
from ddiff.pages.report.records import Record
from ddiff.pages.report.series import Series, of_figure, of_scalar
from ddiff.pages.report.showing import FACES, SIDE, page_samples
from ddiff.pages.view.page import asset, filled
from ddiff.pages.view.rays import AZIMUTH, ELEVATION
from ddiff.pages.view.reading import Found
from ddiff.system.files import replacing

SCRIPTS = ("state.js", "table.js", "chart.js", "curves.js", "pareto.js", "gallery.js",
           "profiles.js", "report.js")  # fmt: skip
Json = dict[str, Any]


def write_report(comparison: Comparison, samples: Sequence[Found | None], path: Path) -> Path:
    folder = files("ddiff.pages.report")
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("report.css", *SCRIPTS)]
    style = asset("page.css") + "\n" + texts[0]
    script = "\n".join([asset("stage.js"), *texts[1:]])
    data = plain(page_data(comparison, samples))
    with replacing(path, "w") as file:
        file.write(filled(comparison.title, "report", data, style, script))
    return path


def page_data(comparison: Comparison, samples: Sequence[Found | None]) -> Json:
    of_run = [i for i, group in enumerate(comparison.groups) for _ in group.runs]
    runs = [
        {"label": label, "group": group, **_run(run), "samples": page_samples(found)}
        for label, group, run, found in zip(
            comparison.labels, of_run, comparison.runs, samples, strict=True
        )
    ]
    return {
        "groups": [
            {"label": group.label, "colour": colour(i), "dashes": dashes(i)}
            for i, group in enumerate(comparison.groups)
        ],
        "runs": runs,
        "options": [
            {"title": d.title, "names": d.names, "values": d.values, "main": not d.implied}
            for d in comparison.differences
        ],
        "columns": [
            {"title": c.title, "better": c.figure.better, "protocol": c.protocol,
             "main": i in comparison.main, "cells": _cells(comparison, i)}
            for i, c in enumerate(comparison.columns)
        ],
        "curves": list(_curves(comparison)),
        "points": [p for i, run in enumerate(comparison.runs) for p in _points(comparison, i, run)],
        "costs": COSTS,
        "profiles": [
            {"title": c.title, "tables": [{"title": t.title, "rows": t.rows} for t in c.tables]}
            for c in changes(comparison)
        ],
        "troubles": comparison.troubles,
        "clock": CLOCK,
        "limits": f"{SIDE} voxels a side and {FACES:,} triangles",
        "footer": _footer(comparison),
        "view": {"azimuth": AZIMUTH, "elevation": ELEVATION},
    }  # fmt: skip


def _run(run: Record) -> Json:
    return {
        "path": str(run.path), "seed": run.seed, "state": run.state, "step": run.step,
        "seconds": run.seconds, "speed": run.samples_per_second, "memory": run.memory_mb,
        "images": run.images_per_step and run.step * run.images_per_step, "device": device(run),
    }  # fmt: skip


def _cells(comparison: Comparison, column: int) -> list[Json | None]:
    return [
        None if cell is None else {
            "value": cell.figure.value, "low": cell.figure.low, "high": cell.figure.high,
            "n": cell.figure.n, "step": cell.evaluation.step, "way": sampling(cell.evaluation),
        }
        for cell in comparison.cells[column]
    ]  # fmt: skip


def _curves(comparison: Comparison) -> list[Json]:
    """Losses and figures over training, one line a run."""
    train = [of_scalar(run, "train/loss") for run in comparison.runs]
    note = "as the run's own sampler of timesteps drew it: samplers differ, so compare with care"
    curves = [{"title": "train/loss", "note": note, "column": None, "lines": train}]
    for i, column in enumerate(comparison.columns):
        pairs = zip(comparison.runs, comparison.cells[i], strict=True)
        lines = [of_figure(run, cell) if cell else None for run, cell in pairs]
        curves.append({"title": column.title, "note": column.protocol, "column": i, "lines": lines})
    curves.sort(key=lambda curve: (curve["column"] is None, _order(comparison, curve["column"])))
    return [
        {**curve, "lines": [line and _line(line) for line in curve["lines"]]}
        for curve in curves
        if any(line is not None and len(line.steps) > 1 for line in curve["lines"])
    ]


def _order(comparison: Comparison, column: int | None) -> int:
    """Validation losses first: every run has them at most steps."""
    loss = column is not None and comparison.columns[column].figure.name == VAL_LOSS
    return -1 if loss else column or 0


def _line(line: Series) -> Json:
    return {
        "steps": line.steps, "seconds": line.seconds, "images": line.images,
        "values": line.values, "low": line.low, "high": line.high,
    }  # fmt: skip


def _points(comparison: Comparison, index: int, run: Record) -> list[Json]:
    """Every evaluation as points of quality against cost."""
    places = {column.key: i for i, column in enumerate(comparison.columns)}
    return [
        {
            "run": index, "column": places[figure.name, figure.protocol_id],
            "value": figure.value, "low": figure.low, "high": figure.high,
            "step": evaluation.step, "way": sampling(evaluation),
            "n": figure.n, **costs(run, evaluation),
        }
        for evaluation in measured(run)
        for figure in evaluation.figures
        if figure.value is not None
    ]  # fmt: skip


def _footer(comparison: Comparison) -> str:
    from importlib.metadata import version

    made = {
        f"{str(run.environment.get('git_commit'))[:7]}"
        f"{' (modified)' if run.environment.get('git_dirty') else ''}"
        for run in comparison.runs
        if run.environment.get("git_commit")
    }
    commits = f"; trained at commit {', '.join(sorted(made))}" if made else ""
    shared = f"; all runs with {' '.join(comparison.shared)}" if comparison.shared else ""
    return f"ddiff {version('ddiff')}{commits}{shared}"


def plain(value: Any) -> Any:
    """For JSON: numbers of six digits, None for what is not finite, lists for arrays."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

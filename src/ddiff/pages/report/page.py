"""The report as one self-contained page: what its scripts are given."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ddiff.pages.plotting import colour, dashes
from ddiff.pages.report.comparison import Comparison, Curves
from ddiff.pages.report.configs import ABSENT
from ddiff.pages.report.figures import COSTS, LENGTH, Point
from ddiff.pages.report.records import Record
from ddiff.pages.report.text import CLOCK, changes
from ddiff.pages.view.page import asset, filled, png_uri, solid_item
from ddiff.pages.view.pictures import tiled, to_pixels
from ddiff.pages.view.rays import AZIMUTH, ELEVATION
from ddiff.pages.view.reading import Found, read
from ddiff.system.errors import DdiffError
from ddiff.system.files import replacing

SCRIPTS = ("state.js", "table.js", "chart.js", "curves.js", "gallery.js", "report.js")
VOLUMES = 4  # of a run
SIDE, FACES = 64, 16_000  # of a volume on the page: voxels a side, triangles
Json = dict[str, Any]


def found_samples(comparison: Comparison, num: int) -> list[Found | None]:
    """The newest samples of each run, spread evenly over the file.

    Broken files are noted as troubles.
    """
    samples: list[Found | None] = []
    for run in comparison.runs:
        found = None
        try:
            if any((run.path / "samples").glob("*.npy")):
                found = read(run.path, num, spread=True)
            if found and found.kind == "volumes" and num > VOLUMES:
                found = read(run.path, VOLUMES, spread=True)
        except DdiffError as error:
            comparison.troubles.append(f"samples left out: {error}")
        samples.append(found)
    return samples


def write_report(comparison: Comparison, samples: Sequence[Found | None], path: Path) -> Path:
    folder = files("ddiff.pages.report")
    style, *scripts = ((folder / n).read_text(encoding="utf-8") for n in ("report.css", *SCRIPTS))
    data = plain(page_data(comparison, samples))
    style, script = asset("page.css") + "\n" + style, "\n".join([asset("stage.js"), *scripts])
    with replacing(path, "w") as file:
        file.write(filled(comparison.title, "report", data, style, script))
    return path


def page_data(comparison: Comparison, samples: Sequence[Found | None]) -> Json:
    each = zip(comparison.labels, comparison.group_of, comparison.runs, samples, strict=True)
    return {
        "groups": [
            {"label": group.label, "colour": colour(i), "dashes": dashes(i)}
            for i, group in enumerate(comparison.groups)
        ],
        "runs": [
            {"label": label, "group": group, **_run(run), "samples": found and _samples(found)}
            for label, group, run, found in each
        ],
        "options": [
            {"title": d.title, "names": d.names, "values": d.values, "main": not d.implied}
            for d in comparison.differences
        ],
        "columns": [
            {"title": c.title, "better": c.first.better, "protocol": c.protocol,
             "main": i in comparison.main, "cells": [p and _point(p) for p in comparison.cells[i]]}
            for i, c in enumerate(comparison.columns)
        ],
        "curves": _curves(comparison.curves),
        "lengths": _curves(comparison.lengths),
        "length": LENGTH,
        "points": _points(comparison),
        "costs": COSTS,
        "profiles": [asdict(change) for change in changes(comparison)],
        "troubles": comparison.troubles,
        "prefaces": [asdict(preface) for preface in comparison.prefaces],
        "clock": CLOCK,
        "limits": f"{SIDE} voxels a side and {FACES:,} triangles",
        "footer": _footer(comparison),
        "view": {"azimuth": AZIMUTH, "elevation": ELEVATION},
    }  # fmt: skip


def _curves(curves: Sequence[Curves]) -> list[Json]:
    return [
        {"title": c.title, "note": c.note, "lines": [line and vars(line) for line in c.lines]}
        for c in curves
    ]


def _run(run: Record) -> Json:
    return {
        "path": str(run.path), "seed": run.seed, "state": run.state, "step": run.step,
        "seconds": run.seconds, "speed": run.samples_per_second, "memory": run.memory_mb,
        "images": run.images_per_step and run.step * run.images_per_step,
        "device": run.device or ABSENT,
    }  # fmt: skip


def _samples(found: Found) -> Json:
    """Images as one grid, pixel for pixel; volumes as solids to turn."""
    shown = f"{len(found.samples)} of {found.total}"
    facts = {"kind": found.kind, "file": found.source.name, "shown": shown}
    if found.kind == "volumes":
        solids = [solid_item(volume, SIDE, FACES, slices=False) for volume in found.samples]
        return {**facts, "solids": solids}
    pixels = to_pixels(found.samples)
    drawn = tiled(np.zeros_like(pixels), padding=1)[..., :1] == 0  # between them: nothing
    grid = np.dstack([tiled(pixels, padding=1), 255 * drawn.astype(np.uint8)])
    return {**facts, "picture": png_uri(grid), "size": grid.shape[:2]}


def _point(point: Point) -> Json:
    return {
        "value": point.value, "low": point.low, "high": point.high, "n": point.n,
        "step": point.step, "way": point.way,
    }  # fmt: skip


def _points(comparison: Comparison) -> list[Json]:
    """Every evaluation as points of quality against cost."""
    places = {column.first.key: i for i, column in enumerate(comparison.columns)}
    return [
        {"run": i, "column": places[point.key], **_point(point), **point.costs}
        for i, run in enumerate(comparison.runs)
        for point in run.points
        if point.value is not None
    ]


def _footer(comparison: Comparison) -> str:
    made = set()
    for facts in (run.environment for run in comparison.runs):
        if commit := facts.get("git_commit"):
            made.add(f"{str(commit)[:7]}{' (modified)' if facts.get('git_dirty') else ''}")
    commits = f"; trained at commit {', '.join(sorted(made))}" if made else ""
    shared = f"; all runs with {' '.join(comparison.shared)}" if comparison.shared else ""
    return f"ddiff {version('ddiff')}{commits}{shared}"


def plain(value: Any) -> Any:
    """Convert to JSON: numbers of six digits, None for what is not finite, lists for arrays."""
    return json.loads(
        json.dumps(value, default=lambda array: array.tolist()),
        parse_float=lambda digits: float(f"{float(digits):.6g}"),
        parse_constant=lambda _: None,
    )

"""Which directories are runs."""

import os
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from ddiff.system.errors import DdiffError

SIGNS = ("metrics.json", "tensorboard", "environment.json", "checkpoints", "samples", "evaluations")


def find_runs(places: Sequence[str]) -> list[Path]:
    """The runs at and below each place: a run, a folder of runs or of sweeps, or a glob.

    In order of their paths, each once. Raises DdiffError for a place that holds none.
    """
    found: dict[Path, Path] = {}
    for place in places:
        paths = sorted(map(Path, glob(place))) if has_magic(place) else [Path(place)]
        if not any(path.is_dir() for path in paths):
            raise DdiffError(f"runs: {place}: no such folder")
        runs = [run for path in paths if path.is_dir() for run in _below(path)]
        if not runs:
            raise DdiffError(f"runs: {place}: no run in it (config.yaml with metrics.json, ...)")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _below(path: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(path):
        here = Path(folder)
        if "config.yaml" in files and not {*names, *files}.isdisjoint(SIGNS):
            names.clear()
            yield here
        names[:] = sorted(name for name in names if not name.startswith("."))

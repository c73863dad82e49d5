"""Pages and pictures: reports of runs, views of samples."""

from collections.abc import Collection
from pathlib import Path


def destination(out: str, name: str, endings: Collection[str]) -> Path:
    """The path to write to, without its ending: `out`, or `name` in it where it is a folder."""
    path = Path(out)
    if path.is_dir() or out.endswith("/"):
        return path / name
    return path.with_suffix("") if path.suffix in endings else path

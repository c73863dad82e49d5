"""Samples as volumes like the training files: one file each, in their units, shape and place."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ddiff.artifacts.trained import Trained
from ddiff.config.options import VolumeFormat
from ddiff.data.volume_files import write_volume
from ddiff.system.errors import ConfigError, DdiffError


@dataclass(frozen=True)
class Original:
    """Properties of the training files, from what a checkpoint says of its data."""

    values: tuple[float, float] | None  # numbers that -1 and 1 mean; None: they stay
    affine: np.ndarray | None  # [4, 4]
    cut_to: tuple[int, ...] | None  # sides of the files before they were padded

    @classmethod
    def of(cls, trained: Trained) -> "Original":
        """Read the facts of a checkpoint or an export, which anyone may have written."""
        shape, data = trained.shape, trained.data
        if len(shape) != 4:
            raise ConfigError("write: this run makes pictures, and write= is for volumes")
        try:
            values, affine, cut_to = (data.get(name) for name in ("values", "affine", "cut_to"))
            low_high = None if values is None else np.array(values, float).reshape(2)
            matrix = None if affine is None else np.array(affine, float).reshape(4, 4)
            sides = None if cut_to is None else tuple(int(side) for side in cut_to)
        except (AttributeError, TypeError, ValueError) as error:
            raise DdiffError(f"what {trained.run_dir} says of its data is damaged") from error
        finite = all(np.isfinite(a).all() for a in (low_high, matrix) if a is not None)
        flat = matrix is not None and abs(np.linalg.det(matrix[:3, :3])) < 1e-12
        fits = sides is None or (
            len(sides) == 3 and all(0 < a <= b for a, b in zip(sides, shape[1:], strict=True))
        )
        if not finite or flat or not fits:
            raise DdiffError(f"what {trained.run_dir} says of its data is damaged")
        return cls(None if low_high is None else tuple(low_high.tolist()), matrix, sides)

    def restored(self, x: np.ndarray) -> np.ndarray:
        """Return x [C, D, H, W] in [-1, 1] with the values and the sides of the files."""
        if self.cut_to is not None:
            for axis, side in enumerate(self.cut_to, 1):
                first = (x.shape[axis] - side) // 2
                x = np.take(x, range(first, first + side), axis)
        if self.values is None:
            return x
        low, high = self.values
        return (x + 1) / 2 * (high - low) + low

    def facts(self, ending: str) -> dict[str, Any]:
        """Return what was done, for the record of the samples."""
        return {
            "format": ending,
            "values": None if self.values is None else list(self.values),
            "affine": None if self.affine is None else self.affine.tolist(),
            "cut_to": None if self.cut_to is None else list(self.cut_to),
        }


def volume_path(out: Path, number: int, ending: str) -> Path:
    return out.with_name(f"{out.name}_{number:04d}.{ending}")


def volumes_beside(out: Path) -> list[Path]:
    """Return the files of single samples beside samples of this name: meshes, and the volumes that
    their record tells of."""
    name = re.compile(re.escape(out.name) + r"_\d{4}\.(ply|obj|stl)")
    folder = out.parent.iterdir() if out.parent.is_dir() else ()
    found = sorted(path for path in folder if name.fullmatch(path.name))
    try:
        record = json.loads(out.with_name(f"{out.name}.json").read_text())
        ending, number = record["files"]["format"], int(record["options"]["num_samples"])
    except (OSError, ValueError, KeyError, TypeError):
        return found
    if ending not in get_args(VolumeFormat):
        return found
    return found + [path for i in range(number) if (path := volume_path(out, i, ending)).exists()]


def write_volumes(samples: np.ndarray, out: Path, original: Original, ending: str) -> None:
    """Write samples [N, C, D, H, W] in [-1, 1], one file each."""
    for number, x in enumerate(samples):
        path = volume_path(out, number, ending)
        write_volume(path, original.restored(np.asarray(x, np.float32)), original.affine)

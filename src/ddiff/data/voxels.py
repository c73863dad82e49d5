"""A folder of volumes."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ddiff.data.base import FolderData, VolumeSize, at_least, sides_of
from ddiff.data.folders import VOLUMES
from ddiff.data.source import FolderSource, each
from ddiff.system.bounds import Count
from ddiff.system.console import console
from ddiff.system.errors import ConfigError, DdiffError, nearest
from ddiff.system.readers import read_array, read_header
from ddiff.system.value_range import RANGES

Values = Literal["auto", "unit", "signed", "bytes"]


@dataclass(eq=False, repr=False)
class Voxels(FolderData):
    """Volumes [D, H, W] or [C, D, H, W] in `.npy` or `.npz` files, all of one size.

    `values` says what the numbers mean: `unit` 0..1 (also bool), `signed` -1..1, `bytes` 0..255.
    `auto` looks at all files, prints what it found, and refuses a mixture.
    """

    size: VolumeSize
    values: Values = "auto"
    channels: Count = 1
    suffixes = VOLUMES

    def __post_init__(self) -> None:
        at_least(1, channels=self.channels)
        self.shape = (self.channels, *sides_of(self.size, 3))
        super().__post_init__()
        if self.values not in (choices := list(get_args(Values))):
            raise ConfigError(
                f"data: values is {self.values!r}{nearest(str(self.values), choices)}"
            )

    def bytes_of_a_sample(self) -> int:
        floats = check_volume(self.files[0], self.shape).kind == "f"
        return math.prod(self.shape) * (4 if floats else 1)

    def sources(self) -> tuple[FolderSource, FolderSource]:
        each(partial(check_volume, shape=self.shape), self.files)
        values = self.values
        if values == "auto":
            values, seen = guess(self.files)
            rank_zero_only(console.print)(f"{seen}; data.values= says otherwise")
        return self.decoded_by(partial(decode_volume, shape=self.shape, values=values))


def guess(files: list[Path]) -> tuple[str, str]:
    """Guess what the numbers in all files mean.

    Returns the name of the range, and words that say so. Raises DdiffError for a mixture. A volume
    of zeros goes with any.
    """
    ranges = each(range_of, files)
    found: dict[str, str] = {}  # the first file of each kind
    for file, (least, most) in zip(files, ranges, strict=True):
        span = f"{file} has values from {least:g} to {most:g}"
        if not (least >= 0 and most <= 255) and not (least >= -1 and most <= 1):
            raise DdiffError(
                f"{span}, which is none of 0..1 (unit), -1..1 (signed), 0..255 (bytes); "
                "rescale them"
            )
        if (least, most) != (0, 0):
            kind = "signed" if least < 0 else "bytes" if most > 1 else "unit"
            found.setdefault(kind, f"{span} ({kind})")
    if len(found) > 1:
        mixture = " and ".join(found.values())
        raise DdiffError(
            f"{mixture}: volumes of one set mean the same; say data.values= or rescale"
        )
    values = next(iter(found), "unit")
    least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
    return values, f"values {least:g}..{most:g} in {len(files)} volumes, taken as {values}"


def range_of(path: Path) -> tuple[float, float]:
    """Return the smallest and the largest number in a file; both are nan if one is."""
    array = read_array(path, "the volume", mapped=False)
    return float(array.min()), float(array.max())


def decode_volume(path: Path, shape: tuple[int, ...], values: str) -> Tensor:
    """Read a volume as `shape` [C, D, H, W], uint8 if the file holds integers 0..1 or 0..255.

    Otherwise it is float32 in [-1, 1]. Raises DdiffError for values outside the range.
    """
    volume = read_volume(path, shape)
    low, high = RANGES[values]
    least, most = float(volume.min()), float(volume.max())
    if not (low <= least and most <= high):  # also where one is not a number
        raise DdiffError(
            f"{path} has values from {least:g} to {most:g}, but values={values} means "
            f"{low:g} to {high:g}; choose values= from unit, signed, bytes"
        )
    if volume.dtype.kind == "f" or values == "signed":
        x = torch.from_numpy(volume.astype(np.float32))
        return (x - low).mul_(2 / (high - low)).sub_(1)
    return torch.from_numpy(volume.astype(np.uint8)) * int(255 / high)


def read_volume(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a volume of `shape` [C, D, H, W], with the values that are in the file."""
    check_volume(path, shape)
    return read_array(path, "the volume", mapped=False).reshape(shape)


def check_volume(path: Path, shape: tuple[int, ...]) -> np.dtype:
    """Return the dtype of a file. Raises DdiffError unless it holds a volume of this shape."""
    header = read_header(path, "the volume")
    if header.shape not in (shape, shape[1:] if shape[0] == 1 else shape):
        wanted = shape[1:] if shape[0] == 1 else shape
        raise DdiffError(f"{path} has shape {header.shape}, but data.size means {wanted}")
    return header.dtype

"""A folder of volumes."""

from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ddiff.data.base import BatchSize, Data, Fraction, VoxelCount, Workers, at_least, fraction
from ddiff.data.folders import VOLUMES, listing
from ddiff.data.source import FolderSource, each
from ddiff.system.bounds import NotNegative, Seed
from ddiff.system.console import console
from ddiff.system.devices import cpu_count
from ddiff.system.errors import ConfigError, DdiffError, nearest
from ddiff.system.readers import read_array, read_header

Kind = Literal["unit", "signed", "bytes"]
Values = Literal["auto", "unit", "signed", "bytes"]
RANGES = {"unit": (0, 1), "signed": (-1, 1), "bytes": (0, 255)}


class Voxels(Data):
    """`.npy` or `.npz` volumes [D, H, W] or [1, D, H, W] below `root`, all of size^3.

    `values` says what the numbers mean: `unit` 0..1 (also bool), `signed` -1..1, `bytes` 0..255.
    `auto` looks at all files, says what it saw, and refuses a mixture. Classes and memory are as
    for Images.
    """

    def __init__(
        self,
        batch_size: BatchSize,
        seed: Seed,
        root: str,
        size: VoxelCount,
        values: Values = "auto",
        labels: bool | None = None,
        val_fraction: Fraction = 0.05,
        cache_gb: NotNegative = 2.0,
        num_workers: Workers = None,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, flip)
        at_least(1, size=size)
        at_least(0, cache_gb=cache_gb)
        fraction(val_fraction=val_fraction)
        if values not in get_args(Values):
            choices = list(get_args(Values))
            raise ConfigError(f"data: values is {values!r}{nearest(str(values), choices)}")
        self.shape = (1, size, size, size)
        self.listing = listing(Path(root), VOLUMES, labels)
        self.class_names = self.listing.class_names
        self.num_classes = len(self.class_names) if self.class_names else None
        self.val_fraction, self.values, self.size = val_fraction, values, size
        first = check_volume(self.listing.root / self.listing.files[0], size)
        total = len(self.listing.files) * size**3 * (4 if first.kind == "f" else 1)
        self.keep = total <= cache_gb * 1e9 and not num_workers

    def default_workers(self) -> int:
        return 0 if self.keep else min(cpu_count(), 8)

    def sources(self) -> tuple[FolderSource, FolderSource]:
        files = [self.listing.root / file for file in self.listing.files]
        each(partial(check_volume, size=self.size), files)
        if self.values != "auto":
            values = self.values
        else:
            values, seen = guess(files, "data.values=")
            rank_zero_only(console.print)(f"{seen}; data.values= says otherwise")
        decode = partial(decode_volume, size=self.size, values=values)
        train, val = self.listing.split(self.val_fraction)
        return (
            FolderSource(self.listing, train, decode, self.keep),
            FolderSource(self.listing, val, decode, self.keep),
        )


def guess(files: list[Path], option: str) -> tuple[Kind, str]:
    """What the numbers in all files mean, and the words that say so.

    Raises DdiffError for a mixture, which `option` can overrule. A volume of zeros goes with any.
    """
    ranges = each(range_of, files)
    found: dict[Kind, tuple[Path, float, float]] = {}  # the first file of each kind
    for file, (least, most) in zip(files, ranges, strict=True):
        if not (least >= 0 and most <= 255) and not (least >= -1 and most <= 1):
            raise DdiffError(
                f"{file} has values from {least:g} to {most:g}, which is none of "
                "0..1 (unit), -1..1 (signed), 0..255 (bytes); rescale them"
            )
        if (least, most) != (0, 0):
            kind: Kind = "signed" if least < 0 else "bytes" if most > 1 else "unit"
            found.setdefault(kind, (file, least, most))
    if len(found) > 1:
        each_kind = " and ".join(
            f"{file} has values from {least:g} to {most:g} ({kind})"
            for kind, (file, least, most) in found.items()
        )
        raise DdiffError(f"{each_kind}: volumes of one set mean the same; say {option} or rescale")
    values: Kind = next(iter(found)) if found else "unit"
    least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
    return values, f"values {least:g}..{most:g} in {len(files)} volumes, taken as {values}"


def range_of(path: Path) -> tuple[float, float]:
    """The smallest and the largest number in a file; both are nan where one is."""
    array = read_array(path, "the volume", mapped=False)
    return float(array.min()), float(array.max())


def decode_volume(path: Path, size: int, values: str) -> Tensor:
    """[1, size, size, size]: uint8 where the file held integers 0..1 or 0..255, else float32."""
    volume = read_volume(path, size)
    low, high = RANGES[values]
    least, most = float(volume.min()), float(volume.max())
    if not (low <= least and most <= high):  # also where one is not a number
        raise DdiffError(
            f"{path} has values from {least:g} to {most:g}, but values={values} means "
            f"{low} to {high}; choose values= from unit, signed, bytes"
        )
    if volume.dtype.kind == "f" or values == "signed":
        x = torch.from_numpy(volume.astype(np.float32))
        return (x - low).mul_(2 / (high - low)).sub_(1)[None]
    return torch.from_numpy(volume.astype(np.uint8))[None] * (255 // high)


def read_volume(path: Path, size: int) -> np.ndarray:
    """[size, size, size] as it is in the file."""
    check_volume(path, size)
    return read_array(path, "the volume", mapped=False).reshape((size,) * 3)


def check_volume(path: Path, size: int) -> np.dtype:
    """The kind of numbers in a file whose header announces a volume of this size."""
    header = read_header(path, "the volume")
    if header.shape not in ((size,) * 3, (1, *(size,) * 3)):
        raise DdiffError(f"{path} has shape {header.shape}, but size={size} means {(size,) * 3}")
    return header.dtype

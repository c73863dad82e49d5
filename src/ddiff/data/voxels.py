"""A folder of volumes."""

import zipfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ddiff.bounds import NotNegative, Seed
from ddiff.data.base import BatchSize, Data, Fraction, VoxelCount, Workers, at_least, fraction
from ddiff.data.folders import FolderSource, listing
from ddiff.devices import cpu_count
from ddiff.errors import ConfigError, DdiffError, nearest

SUFFIXES = (".npy", ".npz")
Values = Literal["auto", "unit", "signed", "bytes"]
RANGES = {"unit": (0, 1), "signed": (-1, 1), "bytes": (0, 255)}


class Voxels(Data):
    """`.npy` or `.npz` volumes [D, H, W] or [1, D, H, W] below `root`, all of size^3.

    `values` says what the numbers mean: `unit` 0..1 (also bool), `signed` -1..1, `bytes` 0..255.
    `auto` decides once for the whole set, from 16 files across it. Classes and memory are as
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
        self.listing = listing(Path(root), SUFFIXES, labels)
        self.class_names = self.listing.class_names
        self.num_classes = len(self.class_names) if self.class_names else None
        self.val_fraction, self.values, self.size = val_fraction, values, size
        first = read_volume(self.listing.root / self.listing.files[0], size)
        total = len(self.listing.files) * size**3 * (4 if first.dtype.kind == "f" else 1)
        self.keep = total <= cache_gb * 1e9 and not num_workers

    def default_workers(self) -> int:
        return 0 if self.keep else min(cpu_count(), 8)

    def sources(self) -> tuple[FolderSource, FolderSource]:
        files = [self.listing.root / file for file in self.listing.files]
        for file in files:
            if file.suffix == ".npy":  # reads the header only
                read_volume(file, self.size, mmap_mode="r")
        values = self.values
        if values == "auto":
            values = guess([read_volume(f, self.size) for f in spread(files, 16)])
        decode = partial(decode_volume, size=self.size, values=values)
        train, val = self.listing.split(self.val_fraction)
        return (
            FolderSource(self.listing, train, decode, self.keep),
            FolderSource(self.listing, val, decode, self.keep),
        )


def spread(files: list[Path], most: int) -> list[Path]:
    return list(islice(files, 0, None, -(-len(files) // most)))


def guess(volumes: list[np.ndarray]) -> Literal["unit", "signed", "bytes"]:
    if min(float(volume.min()) for volume in volumes) < 0:
        return "signed"
    return "bytes" if max(float(volume.max()) for volume in volumes) > 1 else "unit"


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


def read_volume(path: Path, size: int, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """[size, size, size] as it is in the file."""
    try:
        loaded = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        volume = loaded if isinstance(loaded, np.ndarray) else only_array(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DdiffError(f"cannot read the volume {path}: {error}") from error
    if volume.shape not in ((size,) * 3, (1, *(size,) * 3)):
        raise DdiffError(f"{path} has shape {volume.shape}, but size={size} means {(size,) * 3}")
    if volume.dtype.kind not in "buif":
        raise DdiffError(f"{path} holds {volume.dtype}, not numbers")
    return volume.reshape((size,) * 3)


def only_array(archive: np.lib.npyio.NpzFile) -> np.ndarray:
    with archive:
        if len(archive.files) != 1:
            raise ValueError(f"one array expected, found {', '.join(archive.files) or 'none'}")
        return archive[archive.files[0]]

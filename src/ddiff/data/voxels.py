"""A folder of volumes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from ddiff.data.base import FolderData, VolumeSize, at_least, sides_of
from ddiff.data.folders import VOLUMES
from ddiff.data.preparing import (
    SAME,
    Fit,
    Percentiles,
    Preparation,
    Spacing,
    Values,
    Window,
    is_mesh,
)
from ddiff.data.source import FolderSource, WindowSource, each
from ddiff.data.volume_files import VolumeHeader, read_numbers, volume_header
from ddiff.system.bounds import Count
from ddiff.system.console import console
from ddiff.system.errors import ConfigError, DdiffError, nearest
from ddiff.system.value_range import RANGES

FEW_BYTES = 1e8  # a set that takes no more is decoded before training starts: seconds


@dataclass(eq=False, repr=False)
class Voxels(FolderData):
    """Volumes [D, H, W] or [C, D, H, W] in files of many formats: see `docs/data.md`.

    `values` says what the numbers mean: `unit` 0..1 (also bool), `signed` -1..1, `bytes` 0..255.
    `auto` looks at all files, prints what it found, and refuses a mixture. `window` clips the
    numbers instead and scales them to [-1, 1]; `percentiles` does so by those of each file.

    A file is read, turned to its canonical axes (NIfTI), resampled to `spacing`, scaled, and then
    brought to `size` by `fit`.
    """

    size: VolumeSize
    values: Values = "auto"
    channels: Count = 1
    fit: Fit = "exact"
    window: Window | None = None
    percentiles: Percentiles | None = None
    spacing: Spacing | None = None
    suffixes = VOLUMES

    def __post_init__(self) -> None:
        at_least(1, channels=self.channels)
        self.shape = (self.channels, *sides_of(self.size, 3))
        for name, given, known in (("values", self.values, Values), ("fit", self.fit, Fit)):
            if given not in (choices := list(get_args(known))):
                raise ConfigError(f"data: {name} is {given!r}{nearest(str(given), choices)}")
        ranges = {"window": self.window, "percentiles": self.percentiles}
        said = [name for name, value in ranges.items() if value is not None]
        for name in said:
            low, high = ranges[name] or (0, 0)
            if not low < high:
                raise ConfigError(f"data: {name} is {[low, high]}, but the first must be less")
        if self.values != "auto":
            said.append("values")
        if len(said) > 1:
            raise ConfigError(f"data: {' and '.join(said)} say the same twice; leave one out")
        super().__post_init__()
        self.headers: dict[Path, VolumeHeader] = {}  # known after setup

    def prepared(self, values: str) -> Preparation:
        """Return what makes samples of files whose numbers are in the range `values`."""
        return Preparation(
            self.shape, self.fit, values, self.window, self.percentiles, self.spacing
        )

    @cached_property
    def mask_reader(self) -> Preparation:
        """The reader of a file of masks as [1, D, H, W]."""
        shape, root = (1, *self.shape[1:]), self._mask_files.root
        values, _ = guess([root / file for file in self._masks.values()], shape)
        return Preparation(shape, self.fit, values, None, None, self.spacing)

    def mask_source(self, source: FolderSource, files: list[str]) -> FolderSource:
        reader = self.mask_reader
        kind = WindowSource if self.fit == "random_crop" else FolderSource
        masks = kind(self._mask_files, files, reader, self.keep)
        if isinstance(masks, WindowSource):
            masks.sides = self.shape[1:]
            headers = each(reader.check, masks.files)
            for file, mask, header in zip(source.files, masks.files, headers, strict=True):
                sides, own = reader.sides(self.headers[file]), reader.sides(header)
                if sides != own:
                    raise DdiffError(f"data.masks: {mask} has {own} voxels, and {file} has {sides}")
        return masks

    def bytes_of_a_sample(self) -> int:
        header = volume_header(self.files[0], self.shape[1:])
        whole = self.fit == "random_crop"
        sides = self.prepared("unit").sides(header) if whole else self.shape[1:]
        scaled = self.window or self.percentiles or self.spacing
        floats = bool(scaled) or header.dtype.kind == "f"
        return self.channels * math.prod(sides) * (4 if floats else 1)

    def sources(self) -> tuple[FolderSource, FolderSource]:
        headers = each(self.prepared("unit").check, self.files)
        self.headers = dict(zip(self.files, headers, strict=True))
        self.range: str = self.values
        if self.range == "auto" and not self.window and not self.percentiles:
            self.range, seen = guess(self.files, self.shape)
            if seen:
                rank_zero_only(console.print)(f"{seen}; data.values= says otherwise")
        prepared = self.prepared(self.range)
        if self.fit == "random_crop":
            train, val = self.decoded_by(prepared, WindowSource)
            train.sides = val.sides = self.shape[1:]
        else:
            train, val = self.decoded_by(prepared)
        if self.keep and len(self.files) * self.bytes_of_a_sample() <= FEW_BYTES:
            train.look()
            val.look()
        return train, val

    def facts(self) -> dict[str, Any]:
        """Return how samples become volumes like the files.

        - `values`: the numbers in a file that -1 and 1 mean; None: they differ from file to file.
        - `affine`: of a sample, if all training files have the same; None: the files say none.
        - `cut_to`: [D, H, W] of the files, if all have the same and were padded.
        """
        prepared, size = self.prepared(self.range), self.shape[1:]
        assert isinstance(self.train, FolderSource)
        headers = [self.headers[file] for file in self.train.files]
        sides = {prepared.sides(header) for header in headers}
        one = next(iter(sides))
        padded = len(sides) == 1 and any(a < b for a, b in zip(one, size, strict=True))
        cut_to = [min(a, b) for a, b in zip(one, size, strict=True)] if padded else None
        values = None if self.percentiles else list(self.window or RANGES[self.range])
        affines = [prepared.affine(header, cut_to or size) for header in headers]
        return {"values": values, "affine": common(affines), "cut_to": cut_to}


def common(affines: Sequence[np.ndarray | None]) -> list[list[float]] | None:
    """Return the affine that all have, or one of the spacing that all have, or None."""
    first = affines[0]
    if first is None or any(affine is None for affine in affines):
        return None
    if all(np.allclose(affine, first, atol=SAME) for affine in affines if affine is not None):
        return first.tolist()
    every = [np.linalg.norm(affine[:3, :3], axis=0) for affine in affines if affine is not None]
    if all(np.allclose(spacing, every[0], rtol=SAME) for spacing in every):
        return np.diag([*every[0], 1.0]).tolist()
    return None


def guess(files: list[Path], shape: tuple[int, ...]) -> tuple[str, str]:
    """Guess what the numbers in all files mean.

    Returns the name of the range, and words that say so, none for meshes. Raises DdiffError for a
    mixture. A volume of zeros goes with any.
    """
    if all(map(is_mesh, files)):
        return "unit", ""
    ranges = each(partial(range_of, shape=shape), files)
    found: dict[str, str] = {}  # the first file of each kind
    for file, (least, most) in zip(files, ranges, strict=True):
        span = f"{file} has values from {least:g} to {most:g}"
        if not (least >= 0 and most <= 255) and not (least >= -1 and most <= 1):
            raise DdiffError(
                f"{span}, which is none of 0..1 (unit), -1..1 (signed), 0..255 (bytes); rescale "
                "them, or say data.window=[-1000,400] (as for CT) or data.percentiles=[0.5,99.5]"
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


def range_of(path: Path, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the smallest and the largest number in a file; both are nan if one is."""
    array = read_numbers(path, shape[1:])
    return float(array.min()), float(array.max())

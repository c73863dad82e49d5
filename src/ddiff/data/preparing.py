"""Steps between the file of a volume and a sample: resampling, scaling, fitting."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from ddiff.data.folders import MESHES
from ddiff.data.source import centred
from ddiff.data.volume_files import VolumeHeader, ending_of, read_numbers, volume_header
from ddiff.system.bounds import At, Positive
from ddiff.system.errors import DdiffError
from ddiff.system.value_range import RANGES

Values = Literal["auto", "unit", "signed", "bytes"]
Fit = Literal["exact", "pad", "crop", "pad_crop", "random_crop"]
Percent = Annotated[float, At(least=0, most=100)]
Window = tuple[float, float]
Percentiles = tuple[Percent, Percent]
Spacing = tuple[Positive, Positive, Positive]
SAME = 1e-3  # spacings that differ by no more, relatively, are one
FITTING = {  # what a fit takes: whether files may be smaller, and whether they may be larger
    "exact": (False, False),
    "pad": (True, False),
    "crop": (False, True),
    "pad_crop": (True, True),
    "random_crop": (False, True),
}


@dataclass(frozen=True)
class Preparation:
    """Reads a file as a sample of `shape` [C, D, H, W]; the options are those of `Voxels`."""

    shape: tuple[int, ...]
    fit: Fit
    values: str
    window: Sequence[float] | None
    percentiles: Sequence[float] | None
    spacing: Sequence[float] | None

    def __call__(self, path: Path) -> Tensor:
        """Read a file as a sample [C, D, H, W], uint8 if it holds integers 0..1 or 0..255.

        Otherwise it is float32 in [-1, 1]. Raises DdiffError for values outside the range. The
        volumes of fit=random_crop stay as large as they are.
        """
        header = self.check(path)
        numbers = read_numbers(path, self.shape[1:])
        numbers = numbers.reshape(self.shape[0], *header.shape[-3:])
        if self.spacing and header.spacing and self.sides(header) != numbers.shape[1:]:
            volume = torch.from_numpy(numbers.astype(np.float32))
            numbers = resampled(volume, header.spacing, self.spacing).numpy()
        if self.window or self.percentiles:
            x = windowed(path, numbers, self.window, self.percentiles)
        else:
            x = scaled(path, numbers, "unit" if is_mesh(path) else self.values)
        return x if self.fit == "random_crop" else centred(x, self.shape[1:])

    def sides(self, header: VolumeHeader) -> tuple[int, ...]:
        """Return the sides [D, H, W] of a volume after resampling."""
        sides = header.shape[-3:]
        if self.spacing is None or header.spacing is None:
            return sides
        pairs = zip(sides, header.spacing, self.spacing, strict=True)
        return tuple(n if same(a, b) else max(1, round(n * a / b)) for n, a, b in pairs)

    def check(self, path: Path) -> VolumeHeader:
        """Return the header of a file. Raises DdiffError unless it becomes a sample."""
        header = volume_header(path, self.shape[1:])
        wanted = self.shape[1:] if self.shape[0] == 1 else self.shape
        channels = 1 if len(header.shape) == 3 else header.shape[0]
        if len(header.shape) not in (3, 4) or channels != self.shape[0]:
            raise DdiffError(
                f"{path} has shape {header.shape}, but data.size and data.channels mean {wanted}"
            )
        if self.spacing is not None and header.spacing is None:
            raise DdiffError(f"{path} does not say its spacing; leave data.spacing out")
        sides = self.sides(header)
        smaller = any(a < b for a, b in zip(sides, self.shape[1:], strict=True))
        larger = any(a > b for a, b in zip(sides, self.shape[1:], strict=True))
        may_be_smaller, may_be_larger = FITTING[self.fit]
        if (smaller and not may_be_smaller) or (larger and not may_be_larger):
            at = f", {sides} at data.spacing" if sides != header.shape[-3:] else ""
            others = [
                name
                for name, (less, more) in FITTING.items()
                if less >= smaller and more >= larger and name != self.fit
            ]
            raise DdiffError(
                f"{path} has shape {header.shape}{at}, but data.size means {wanted}; "
                f"data.fit={' or '.join(others)} takes it"
            )
        return header

    def affine(self, header: VolumeHeader, written: Sequence[int]) -> np.ndarray | None:
        """Return the affine of a file's sample, cut to the sides `written`."""
        if header.affine is None or header.spacing is None:
            return None
        affine, sides = header.affine.copy(), self.sides(header)
        steps, starts = np.ones(3), np.zeros(3)
        for axis, (before, now) in enumerate(zip(header.shape[-3:], sides, strict=True)):
            if self.spacing and not same(header.spacing[axis], self.spacing[axis]):
                steps[axis] = self.spacing[axis] / header.spacing[axis]
                starts[axis] = (before - now * steps[axis]) / 2 + (steps[axis] - 1) / 2
            extra = now - written[axis]
            first = extra // 2 if extra > 0 else -(-extra // 2)
            starts[axis] += steps[axis] * (0 if self.fit == "random_crop" else first)
        affine[:3, 3] += affine[:3, :3] @ starts
        affine[:3, :3] *= steps
        return affine


def same(a: float, b: float) -> bool:
    """Return True for spacings that are one."""
    return abs(a - b) <= SAME * b


def is_mesh(path: Path) -> bool:
    return ending_of(path) in MESHES


def resampled(x: Tensor, spacing: Sequence[float], wanted: Sequence[float]) -> Tensor:
    """Resample x [C, D, H, W] linearly, axis by axis, about its middle."""
    for axis, (before, now) in enumerate(zip(spacing, wanted, strict=True), 1):
        if same(before, now):
            continue
        number = x.shape[axis]
        count, step = max(1, round(number * before / now)), now / before
        at = (torch.arange(count) - (count - 1) / 2) * step + (number - 1) / 2
        at = at.clamp(0, number - 1)
        low = at.floor().long()
        part = (at - low).view(-1, *[1] * (3 - axis))
        high = (low + 1).clamp(max=number - 1)
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), part)
    return x


def windowed(
    path: Path,
    numbers: np.ndarray,
    window: Sequence[float] | None,
    percentiles: Sequence[float] | None,
) -> Tensor:
    """Clip the numbers to a window, or to their own percentiles, and scale it to [-1, 1]."""
    x = torch.from_numpy(numbers.astype(np.float32))
    if not x.isfinite().all():
        raise DdiffError(f"{path} has values that are not finite")
    if window is not None:
        low, high = window
    else:
        low, high = np.percentile(x.numpy(), list(percentiles or (0, 100))).tolist()
    if low == high:  # a file of one value
        return torch.full_like(x, -1)
    return x.clamp_(low, high).sub_(low).mul_(2 / (high - low)).sub_(1).clamp_(-1, 1)


def scaled(path: Path, volume: np.ndarray, values: str) -> Tensor:
    """Scale the numbers of a volume from the range `values`: uint8 if they are integers 0..1 or
    0..255, else float32 in [-1, 1]. Raises DdiffError for values outside the range."""
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

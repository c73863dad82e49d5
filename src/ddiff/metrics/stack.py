"""Samples to measure, from wherever they are: read in pieces, so that any number fits in memory."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddiff.data.source import Source
from ddiff.system.errors import DdiffError
from ddiff.system.value_range import RANGES, Values

CHUNK = 2**26  # bytes of float32 at a time


class Stack:
    """A source [N, C, *S] with a name for protocols; `read_as` tells people what was assumed."""

    def __init__(self, source: Source, name: str, read_as: str = "") -> None:
        self.source, self.name, self.read_as = source, name, read_as
        self.shape = tuple(source.batch(torch.zeros(1, dtype=torch.int64))[0].shape[1:])

    def __len__(self) -> int:
        return len(self.source)

    def __str__(self) -> str:
        return f"{self.name} ({len(self)})"

    def chunks(self, most: int | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """x [B, C, *S] float32 in [-1, 1] and y [B] or None, in order; the first `most` samples."""
        rows = torch.arange(min(len(self), most or len(self)))
        at_once = max(1, CHUNK // (4 * int(np.prod(self.shape))))
        for some in rows.split(min(at_once, 1024)):
            yield self.source.batch(some)

    def digest(self) -> str:
        """Of the samples' numbers, in order."""
        found = hashlib.sha256(repr((len(self), self.shape)).encode())
        for x, _ in self.chunks():
            found.update(x.contiguous().numpy().tobytes())
        return found.hexdigest()


class Array:
    """An array of a stranger's, [N, C, *S], as a source; `labels` [N] where it has some.

    All its values are looked at once: not-a-number, an unknown range and an empty array are
    refused in words. `values` says what they mean (`auto`: see `Values.guess`).
    """

    def __init__(
        self, array: np.ndarray, path: Path, values: str = "auto", labels: Tensor | None = None
    ) -> None:
        if array.dtype.kind not in "buif":
            raise DdiffError(f"{path} holds {array.dtype}, not numbers")
        if array.size == 0:
            raise DdiffError(f"{path} is empty: its shape is {list(array.shape)}")
        self.array, self.labels = array, labels
        self.range, self.read_as = decided(_surveyed(array, path), path, values)

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        x = torch.from_numpy(np.asarray(self.array[indices.numpy()], dtype=np.float32))
        return to_signed(x, self.range), None if self.labels is None else self.labels[indices]


def decided(values: Values, path: Path, value_range: str) -> tuple[str, str]:
    """The name of the range that the numbers at `path` are in, and what to tell people of it."""
    declared = value_range != "auto"
    try:
        name = value_range if declared else values.guess()
        values.check(name, declared)
    except DdiffError as error:
        raise DdiffError(f"{path} has {error}") from error
    return name, values.note(name, declared)


def to_signed(x: Tensor, name: str) -> Tensor:
    """float32 `x` in the range `name` to [-1, 1], in place; whatever lies outside is cut."""
    low, high = RANGES[name]
    if name != "signed":
        x.sub_(low).mul_(2 / (high - low)).sub_(1)
    return x.clamp_(-1, 1)


def _surveyed(array: np.ndarray, path: Path) -> Values:
    """Counts over the whole array, in pieces; not-a-number is refused by its sample."""
    values = Values()
    rows = max(1, CHUNK // (16 * max(1, array[0].size)))  # comparing bytes makes float64 of them
    for first in range(0, len(array), rows):
        part = array[first : first + rows]
        try:
            values.see(part)
        except DdiffError as error:
            flat = np.asarray(part).reshape(len(part), -1)
            row = int((~np.isfinite(flat)).any(1).argmax())
            raise DdiffError(f"{path}: sample {first + row} has {error}") from error
    return values

"""Samples to measure, from wherever they are: read in pieces, so that any number fits in memory."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddiff.data.source import Source
from ddiff.errors import DdiffError

CHUNK = 2**26  # bytes of float32 at a time
CLIPPED = 1.5  # values up to this are taken for [-1, 1], and cut to it
DECLARED = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0), "bytes": (0.0, 255.0)}


class Stack:
    """A source [N, C, *S] with a name for protocols."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name
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
    refused in words. `values` says what they mean (`auto` finds out).
    """

    def __init__(
        self, array: np.ndarray, path: Path, values: str = "auto", labels: Tensor | None = None
    ) -> None:
        if array.dtype.kind not in "buif":
            raise DdiffError(f"{path} holds {array.dtype}, not numbers")
        if array.size == 0:
            raise DdiffError(f"{path} is empty: its shape is {list(array.shape)}")
        self.array, self.labels = array, labels
        self.low, self.high = _range(array, path, values)

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        x = torch.from_numpy(np.asarray(self.array[indices.numpy()], dtype=np.float32))
        if (self.low, self.high) != DECLARED["signed"]:
            x = (x - self.low).mul_(2 / (self.high - self.low)).sub_(1)
        return x.clamp_(-1, 1), None if self.labels is None else self.labels[indices]


def _range(array: np.ndarray, path: Path, values: str) -> tuple[float, float]:
    """The numbers that mean -1 and 1."""
    least, most = np.inf, -np.inf
    rows = max(1, CHUNK // max(1, array[0].nbytes))
    for first in range(0, len(array), rows):
        part = array[first : first + rows]
        low, high = float(part.min()), float(part.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            flat = np.asarray(part).reshape(len(part), -1)
            row = int((~np.isfinite(flat)).any(1).argmax())
            raise DdiffError(f"{path}: sample {first + row} has values that are not finite")
        least, most = min(least, low), max(most, high)
    if array.dtype.kind == "b":
        return DECLARED["unit"]
    if values == "auto":
        values = "signed" if least < 0 else "unit" if most <= 1 else "bytes"
    low, high = DECLARED[values]
    slack = CLIPPED - 1 if values == "signed" else 0.0
    if not (low - slack <= least and most <= high + slack):
        raise DdiffError(
            f"{path} has values from {least:g} to {most:g}, which is none of -1..1 (signed), "
            "0..1 (unit), 0..255 (bytes); rescale them, or say which with value_range="
        )
    return low, high

"""The fingerprint of a data set: what a look at some of its samples tells."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

MOST = 1024  # samples that are looked at, spread over the training set
VALUES = 2**26  # at most so many numbers are held: 256 MB
NEAR_END = 0.02  # of -1 or 1: a value "at an end"
SAME = 0.02  # two values that differ by less agree: 2.5 of 255 grey levels
MOST_COLOURS = 16

Law = Literal["binary", "bounded", "unbounded"]


@dataclass(frozen=True)
class Fingerprint:
    """Facts about a data set, of `looked_at` of its `number` training samples."""

    shape: tuple[int, ...]  # [C, *S]
    number: int  # of training samples
    looked_at: int
    law: Law  # binary: -1 or 1; bounded: many values lie at an end; unbounded: hardly any do
    colours: int | None  # different values of a pixel with all its channels; None: more than 16
    spread: float  # standard deviation of a value about the mean sample
    agreeing: float  # share of pixels or voxels where 95% of the samples have the same value
    length: float  # pixels after which the correlation of two values has fallen to 1/e
    copies: int  # samples that equal an earlier one
    near_copies: int  # others whose nearest one is within a tenth of the usual distance
    classes: int | None
    told: tuple[str, ...] = ()  # what else the data tell of a sample: numbers, text, masks

    @property
    def dims(self) -> int:
        return len(self.shape) - 1

    @property
    def pixels(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def distinct(self) -> int:
        """Number of different training samples, as far as was looked."""
        return round(self.number * (1 - self.copies / self.looked_at))


def fingerprint(data: Any) -> Fingerprint:
    """Return the fingerprint of a `ddiff.data.Data` that is set up."""
    number = len(data.train)
    looked = max(1, min(number, MOST, VALUES // math.prod(data.shape)))
    x, _ = data.train.batch(torch.arange(looked) * number // looked)
    centred = x - x.mean(0)
    copies, near = repeated(x)
    return Fingerprint(
        shape=tuple(data.shape),
        number=number,
        looked_at=looked,
        law=law_of(x),
        colours=colours(x),
        spread=float(centred.square().mean().sqrt()),
        agreeing=float(agreement(x).float().mean()),
        length=correlation_length(centred),
        copies=copies,
        near_copies=near,
        classes=data.classes_told,
        told=tuple(data.names_told()),
    )


def law_of(x: Tensor) -> Law:
    """Return the law of the values of x, which lie in [-1, 1]."""
    at_an_end = float((x.abs() > 1 - NEAR_END).float().mean())
    return "binary" if at_an_end > 0.995 else "bounded" if at_an_end > 0.01 else "unbounded"


def colours(x: Tensor) -> int | None:
    """Return the number of different values of a pixel of x [B, C, *S]; None: more than 16."""
    pixels = (x.movedim(1, -1).reshape(-1, x.shape[1]) * 127.5).round().int()
    found = torch.unique(pixels[: 2**14], dim=0)  # most data are out of the question after these
    if len(found) <= MOST_COLOURS:
        found = torch.unique(pixels, dim=0)
    return len(found) if len(found) <= MOST_COLOURS else None


def agreement(x: Tensor) -> Tensor:
    """Return which values of x [B, *S] are the same in 95% of the samples."""
    usual = x.median(0).values
    return ((x - usual).abs() < SAME).float().mean(0) >= 0.95


def correlation_length(centred: Tensor) -> float:
    """Return the distance in pixels at which the correlation of x [B, C, *S] falls to 1/e, the
    mean over all axes; half a side where it does not. x has the mean 0 at every pixel."""
    lengths = []
    for axis in range(2, centred.ndim):
        side, before, found = centred.shape[axis], 1.0, None
        for lag in range(1, side // 2 + 1):
            a, b = centred.narrow(axis, 0, side - lag), centred.narrow(axis, lag, side - lag)
            power = float((a.square().mean() * b.square().mean()).sqrt())
            now = float((a * b).mean()) / power if power > 0 else 1.0
            if now < math.exp(-1):
                found = lag - 1 + (before - math.exp(-1)) / (before - now)
                break
            before = now
        lengths.append(side / 2 if found is None else found)
    return sum(lengths) / len(lengths)


def repeated(x: Tensor) -> tuple[int, int]:
    """Return how many samples of x [B, ...] equal an earlier one, and how many others have one
    within a tenth of the usual (median) distance."""
    first: dict[bytes, int] = {}
    for i, sample in enumerate(x):
        first.setdefault(hashlib.sha256(sample.contiguous().numpy().tobytes()).digest(), i)
    different = x[list(first.values())].flatten(1)
    if len(different) < 3:
        return len(x) - len(different), 0
    different = different - different.mean(0)  # so that little is lost in the products
    norms = different.square().sum(1)
    squares = norms[:, None] + norms - 2 * different @ different.T
    usual = squares[*torch.triu_indices(len(different), len(different), 1)].median()
    nearest = squares.fill_diagonal_(math.inf).min(1).values
    return len(x) - len(different), int((nearest < 0.01 * usual).sum())

"""Sources: the interface of a data set, which turns indices into a batch."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ddiff.data.folders import Listing
from ddiff.system.devices import cpu_count

T = TypeVar("T")
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow has it
AT_ONCE = 64  # files decoded in one go by `look`


class Source(Protocol):
    """Interface of a data set: its length, and batches by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return x [B, C, *S] float32 in [-1, 1] and y [B] int64 or None, for indices [B] int64."""
        ...


@dataclass(frozen=True, eq=False)
class Again:
    """The first `number` samples of a source, each so many `times` one after the other, and again
    from the first one, `length` in all."""

    source: Source
    number: int
    length: int
    times: int = 1

    def __len__(self) -> int:
        return self.length

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.source.batch(indices // self.times % self.number)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A source with other labels [N]."""

    source: Source
    labels: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.source.batch(indices)[0], self.labels[indices]


def to_unit(x: Tensor) -> Tensor:
    """Scale uint8 0..255 to float32 in [-1, 1], both ends exact; float32 passes through."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x


def to_bytes(x: Tensor) -> Tensor:
    """Round float32 in [-1, 1] to uint8 0..255, the inverse of `to_unit`."""
    return x.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def as_shape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring pictures x [B, C, H, W] to `shape` [C, H, W], of 1 or 3 channels.

    Larger sides are bilinear, smaller ones area averages. Grey is repeated for three channels, and
    colours become their luminance for one.
    """
    channels, *sides = shape
    smaller = [min(pair) for pair in zip(x.shape[2:], sides, strict=True)]
    if list(x.shape[2:]) != smaller:
        x = interpolate(x, size=smaller, mode="area")
    if smaller != sides:
        x = interpolate(x, size=sides, mode="bilinear")
    if x.shape[1] == 3 and channels == 1:
        return (x * torch.tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
    return x.expand(-1, channels, -1, -1).contiguous() if x.shape[1] < channels else x


@dataclass(frozen=True, eq=False)
class Stored:
    """A whole data set in memory; `decode` makes a batch of it float32 in [-1, 1]."""

    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor | None  # [N] uint8
    decode: Callable[[Tensor], Tensor] = to_unit

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        y = None if self.labels is None else self.labels[indices].long()
        return self.decode(self.images[indices]), y


class FolderSource:
    """Files decoded when asked for, and kept in memory afterwards if `keep` is True."""

    def __init__(
        self, listing: Listing, files: list[str], decode: Callable[[Path], Tensor], keep: bool
    ) -> None:
        self.files = [listing.root / file for file in files]
        self.labels = None
        if listing.class_names is not None:
            self.labels = torch.tensor([listing.label(file) for file in files])
        self.decode = decode  # path -> [C, *S], uint8 or float32 in [-1, 1]
        self._kept: dict[int, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._stacked(self._samples(indices.tolist()), indices)

    def _stacked(self, samples: list[Tensor], indices: Tensor) -> tuple[Tensor, Tensor | None]:
        if len({sample.dtype for sample in samples}) > 1:
            samples = [to_unit(sample) for sample in samples]
        return to_unit(torch.stack(samples)), None if self.labels is None else self.labels[indices]

    def look(self) -> None:
        """Decode every file once, so that a broken one is named before the work begins."""
        for rows in torch.arange(len(self)).split(AT_ONCE):
            self._samples(rows.tolist())

    def _samples(self, rows: list[int]) -> list[Tensor]:
        kept = self._kept
        if kept is None:
            return [self.decode(self.files[row]) for row in rows]
        absent = sorted(set(rows) - kept.keys())
        if absent:
            decoded = each(self.decode, [self.files[row] for row in absent])
            kept.update(zip(absent, decoded, strict=True))
        return [kept[row] for row in rows]


class WindowSource(FolderSource):
    """Files that are larger than a sample, of which a window of `sides` is the sample.

    `batch` takes the window in the middle, as for validation; `drawn` one at a random place, which
    depends on the generator alone.
    """

    sides: tuple[int, ...]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        samples = self._samples(indices.tolist())
        return self._stacked([centred(sample, self.sides) for sample in samples], indices)

    def drawn(self, indices: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        places = torch.rand(len(indices), len(self.sides), generator=random).tolist()
        samples = []
        for sample, place in zip(self._samples(indices.tolist()), places, strict=True):
            for axis, (side, u) in enumerate(zip(self.sides, place, strict=True), 1):
                room = sample.shape[axis] - side + 1
                sample = sample.narrow(axis, int(u * room), side)
            samples.append(sample)
        return self._stacked(samples, indices)


def centred(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Cut or pad x [C, *S] to `sides`, about its middle; what is padded has the least value."""
    missing: list[int] = []
    for axis, side in enumerate(sides, 1):
        if (extra := x.shape[axis] - side) > 0:
            x = x.narrow(axis, extra // 2, side)
        before = max(0, -extra) // 2
        missing = [before, max(0, -extra) - before, *missing]  # the last axis comes first
    return pad(x, missing, value=0 if x.dtype == torch.uint8 else -1) if any(missing) else x


def each(read: Callable[[Path], T], files: Iterable[Path]) -> list[T]:
    """Return `read(file)` of every file, in order. Readers release the GIL."""
    with ThreadPoolExecutor(min(cpu_count(), 8)) as pool:
        return list(pool.map(read, files))

"""The training stream: micro-batch n of the whole training is a pure function of (seed, n).

This makes resuming exact: to continue after n batches is to start counting at n. It is the same
stream for any number of ranks, which take its batches in turn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ddiff.data.conditions import Teller
from ddiff.data.source import Source
from ddiff.system.errors import DdiffError
from ddiff.system.random import STREAM, generator

Batch = tuple[Tensor, Tensor | None]


def batches_per_epoch(length: int, batch_size: int) -> int:
    """Number of batches in an epoch, of all ranks.

    The last incomplete batch is dropped; a set smaller than one batch is repeated to fill it.
    """
    return max(1, length // batch_size)


@dataclass(eq=False)
class TrainBatches(Dataset[Batch]):
    """Endless sequence of training batches: item n is the n-th of all ranks."""

    source: Source
    batch_size: int
    seed: int
    flip: bool = False
    teller: Teller | None = None  # of conditions other than a label

    def __post_init__(self) -> None:
        self._generator = partial(generator, "cpu", self.seed)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, n: int) -> Batch:
        drawn = getattr(self.source, "drawn", None)  # of a source that makes random choices
        crop = partial(self._generator, "crop", STREAM, n) if drawn else None
        indices = self.indices(n)
        x, y = drawn(indices, crop()) if drawn and crop else self.source.batch(indices)
        flipped = None
        if self.flip:
            flipped = torch.rand(len(x), generator=self._generator("flip", STREAM, n)) < 0.5
            x[flipped] = x[flipped].flip(-1)
        if self.teller is None:
            return x, y
        return x, self.teller(x, y, indices, flipped, crop() if crop else None)

    def indices(self, n: int) -> Tensor:
        """Indices of the samples in batch n, [batch_size] int64."""
        epoch, k = divmod(n, batches_per_epoch(len(self.source), self.batch_size))
        start = k * self.batch_size
        if epoch != self._epoch:
            drawn = torch.randperm(len(self.source), generator=self._generator("order", epoch))
            self._epoch, self._order = epoch, drawn
        return self._order[torch.arange(start, start + self.batch_size) % len(self._order)]


@dataclass(eq=False)
class ValBatches(Dataset[Batch]):
    """Batches of all samples in order; the last one may be smaller."""

    source: Source
    batch_size: int
    teller: Teller | None = None

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, n: int) -> Batch:
        start = n * self.batch_size
        stop = min(start + self.batch_size, len(self.source))
        indices = torch.arange(start, stop)
        x, y = self.source.batch(indices)
        return x, self.teller(x, y, indices) if self.teller else y


class CountFrom(Sampler[int]):
    """Sampler of start, start + step, ... without end, from start each time it is iterated."""

    def __init__(self, start: int, step: int = 1) -> None:
        self.start, self.step = start, step

    def __iter__(self) -> Iterator[int]:
        return count(self.start, self.step)


class Loader(DataLoader[Batch]):
    """A DataLoader whose workers' DdiffErrors stay one line (torch wraps them in a traceback)."""

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return (yield from super().__iter__())
        except DdiffError as error:
            line = str(error).strip().splitlines()[-1]
            name = f"{type(error).__module__}.{type(error).__qualname__}: "
            failure = type(error)(line.removeprefix(name))
            error.__traceback__ = None  # its frames would keep the workers alive
        self._iterator = None
        raise failure


def as_is(batch: Any) -> Any:
    return batch


def loader(
    batches: Dataset[Batch], sampler: Sampler[int] | list[int], num_workers: int, pin_memory: bool
) -> Loader:
    return Loader(
        batches,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        collate_fn=as_is,
        generator=torch.Generator(),  # else every iterator draws from the global one
    )

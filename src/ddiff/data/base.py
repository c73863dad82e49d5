"""Base classes of the data sets, and their loaders."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from lightning.pytorch import LightningDataModule
from torch import Tensor

from ddiff.data.folders import listing
from ddiff.data.loading import (
    CountFrom,
    Loader,
    TrainBatches,
    ValBatches,
    batches_per_epoch,
    loader,
)
from ddiff.data.source import FolderSource, Source
from ddiff.system.bounds import At, NotNegative, Seed
from ddiff.system.devices import cpu_count
from ddiff.system.errors import ConfigError

BatchSize = Annotated[int, At(least=1, most=10**6)]
Workers = Annotated[int, At(least=0, most=1024)] | None
Pixels = Annotated[int, At(least=1, most=8192)]  # a side
VoxelCount = Annotated[int, At(least=1, most=1024)]  # a side
PictureSize = Pixels | tuple[Pixels, Pixels]  # height, width
VolumeSize = VoxelCount | tuple[VoxelCount, VoxelCount, VoxelCount]  # depth, height, width
Channels = Literal[1, 3]  # grey, RGB
Files = TypeVar("Files", bound=FolderSource)
Fraction = Annotated[float, At(least=0, below=1)]


@dataclass(eq=False, repr=False)
class Data(LightningDataModule, ABC):
    """Base class of data sets; the options are the fields of a dataclass.

    Subclasses write `sources`, `prepare_data` if there is a download, and `__post_init__` for what
    follows from the options.

    Known once constructed: `shape` [C, *S], `num_classes`, `class_names`.
    Known after `setup`: `train` and `val`.
    Training resumes at batch `position` of the stream that all ranks share; checkpoints carry it.
    """

    batch_size: BatchSize
    seed: Seed
    num_workers: Workers = field(default=None, kw_only=True)
    flip: bool = field(default=False, kw_only=True)
    shape: tuple[int, ...] = field(init=False)
    num_classes: int | None = field(init=False, default=None)
    class_names: list[str] | None = field(init=False, default=None)
    position: int = field(init=False, default=0)
    train: Source = field(init=False)
    val: Source = field(init=False)

    def __post_init__(self) -> None:
        super().__init__()
        at_least(1, batch_size=self.batch_size)
        at_least(0, num_workers=self.num_workers or 0)

    @abstractmethod
    def sources(self) -> tuple[Source, Source]:
        """Return the training and the validation set."""

    def default_workers(self) -> int:
        """Number of loader processes if `num_workers` is null: 0 for data in memory."""
        return 0

    def setup(self, stage: str) -> None:
        if not hasattr(self, "train"):  # Lightning calls it once per stage
            self.train, self.val = self.sources()

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the data, so that samples can be written as the files
        were: see `ddiff.data.voxels.Voxels.facts`. Known after `setup`."""
        return {}

    @property
    def batches_per_epoch(self) -> int:
        return batches_per_epoch(len(self.train), self.batch_size)

    @property
    def num_val_batches(self) -> int:
        """Number of batches in a validation, of all ranks, under trainer.limit_val_batches."""
        number = len(ValBatches(self.val, self.batch_size))
        limit = self.trainer.limit_val_batches if self.trainer else None
        if limit is None:
            return number
        return int(number * limit) if isinstance(limit, float) else min(number, limit)

    def train_dataloader(self) -> Loader:
        """Endless loader of training batches that starts at batch `position`; rank r of W takes
        batches r, r + W, ... from there."""
        rank, world_size = self._place()
        batches = TrainBatches(self.train, self.batch_size, self.seed, self.flip)
        numbers = CountFrom(self._seen() + rank, world_size)
        return loader(batches, numbers, self._workers(), self._pinned())

    def val_dataloader(self) -> Loader:
        """Loader of validation batches in order; rank r of W takes batches r, r + W, ...

        All ranks have equally many, for Lightning's loop must not end earlier on one of them. What
        is too much repeats the first batches, and the module leaves it out.
        """
        rank, world_size = self._place()
        batches = ValBatches(self.val, self.batch_size)
        number = len(batches) if world_size == 1 else self.num_val_batches
        mine = [n % number for n in range(rank, -(-number // world_size) * world_size, world_size)]
        return loader(batches, mine, self._workers(), self._pinned())

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._seen()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = int(state_dict["position"])

    def _seen(self) -> int:
        """Number of training batches that all ranks together have had."""
        seen: Any = self.trainer.lightning_module.batches_seen if self.trainer else self.position
        return int(seen)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self) -> int:
        return self.default_workers() if self.num_workers is None else self.num_workers

    def _pinned(self) -> bool:
        return bool(self.trainer) and self.trainer.strategy.root_device.type == "cuda"


def sides_of(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """Return a side for every axis: `size` for all of them, or as it says them."""
    sides = (size,) * dims if isinstance(size, int) else tuple(size)
    if len(sides) != dims or not all(isinstance(side, int) and side >= 1 for side in sides):
        axes = "[height, width]" if dims == 2 else "[depth, height, width]"
        raise ConfigError(f"data: size is {size}, but must be one number from 1, or {axes}")
    return sides


def check_channels(channels: int) -> None:
    if channels not in get_args(Channels):
        raise ConfigError(f"data: channels is {channels}; choose 1 (grey) or 3 (RGB)")


def at_least(smallest: float, **options: float) -> None:
    for name, value in options.items():
        if value < smallest:
            raise ConfigError(f"data: {name} is {value}, but must be at least {smallest}")


@dataclass(eq=False, repr=False)
class FolderData(Data):
    """Files below `root`, decoded to one `size`: a number, or a side for every axis.

    Folders directly below root are the classes, or a table names them (`labels`: see `listing`).
    The decoded set is kept in memory if it takes at most `cache_gb` and no worker processes are
    asked for.
    """

    root: str
    size: Any
    labels: bool | str | None = None
    val_fraction: Fraction = 0.05
    cache_gb: NotNegative = 2.0
    suffixes: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, cache_gb=self.cache_gb)
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"data: val_fraction is {self.val_fraction}, but must be in [0, 1)")
        self.listing = listing(Path(self.root), self.suffixes, self.labels)
        self.files = [self.listing.root / file for file in self.listing.files]
        self.class_names = self.listing.class_names
        self.num_classes = len(self.class_names) if self.class_names else None
        fits = len(self.files) * self.bytes_of_a_sample() <= self.cache_gb * 1e9
        self.keep = fits and not self.num_workers

    @abstractmethod
    def bytes_of_a_sample(self) -> int:
        """Return the bytes that a decoded sample takes in memory."""

    def default_workers(self) -> int:
        return 0 if self.keep else min(cpu_count(), 8)

    def decoded_by(
        self, decode: Callable[[Path], Tensor], kind: type[Files] = FolderSource
    ) -> tuple[Files, Files]:
        """Return the training and the validation set of the files.

        decode: path -> [C, *S], uint8 or float32 in [-1, 1].
        """
        train, val = self.listing.split(self.val_fraction)
        return (
            kind(self.listing, train, decode, self.keep),
            kind(self.listing, val, decode, self.keep),
        )

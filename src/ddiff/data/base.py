"""Base classes of the data sets, and their loaders."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ddiff.data.conditions import (
    DERIVED,
    EXAMPLES,
    Column,
    Paired,
    Picture,
    Teller,
    check_names,
    derived,
    layout_from,
)
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
from ddiff.data.tables import numbers_by, paired, texts_by, vectors_by
from ddiff.nets.autoencoder import Decoder
from ddiff.nets.conditions import CLASS, TEXT, VECTOR, Layout
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

    `conditions` names what a conditional net is told of a sample; None: its class, if it has one.
    A subclass adds to `offered` and to `told`.

    Known once constructed: `shape` [C, *S], `num_classes`, `class_names`.
    Known after `setup`: `train` and `val`, and `decoder`, which makes samples of what a net draws
    where these are latents.
    Training resumes at batch `position` of the stream that all ranks share; checkpoints carry it.
    """

    batch_size: BatchSize
    seed: Seed
    num_workers: Workers = field(default=None, kw_only=True)
    flip: bool = field(default=False, kw_only=True)
    conditions: list[str] | None = field(default=None, kw_only=True)
    shape: tuple[int, ...] = field(init=False)
    num_classes: int | None = field(init=False, default=None)
    class_names: list[str] | None = field(init=False, default=None)
    position: int = field(init=False, default=0)
    decoder: Decoder | None = field(init=False, default=None)
    train: Source = field(init=False)
    val: Source = field(init=False)

    def __post_init__(self) -> None:
        super().__init__()
        at_least(1, batch_size=self.batch_size)
        at_least(0, num_workers=self.num_workers or 0)

    def offered(self) -> list[str]:
        """Return the names that `conditions` may hold."""
        return [*([CLASS] if self.num_classes else []), *DERIVED]

    def told(self, name: str, source: Source) -> Column | Picture:
        """Return what is told of the samples of a source under a name of `offered`.

        That is a number [N] or a vector [N, D] for each, a text for each, or a function that makes
        a picture.
        """
        return derived(name)

    def measured(self, name: str, x: Tensor) -> Tensor | None:
        """Return what samples x [B, C, *S] are under a name of `offered`, [B, ...].

        None if nothing measures it.
        """
        return derived(name)(x, torch.arange(len(x))) if name in DERIVED else None

    def class_in(self, text: str) -> int | None:
        """Return the class that a text asks for; None if it names none."""
        return None

    def channels_of(self, picture: str) -> int:
        """Return the channels of a picture that a net is told."""
        return self.shape[0] if picture == "coarse" else 1

    def names_told(self) -> list[str]:
        """Return the names of what a conditional net is told, without the class."""
        names = list(self.conditions or [])
        check_names(names, self.offered(), self.shape)
        return [name for name in names if name != CLASS]

    @property
    def classes_told(self) -> int | None:
        """The number of classes, if a conditional net is told the class of a sample."""
        told = self.conditions is None or CLASS in self.conditions
        return self.num_classes if told else None

    @cached_property
    def layout(self) -> Layout:
        """The layout of what a conditional net is told."""
        names = self.names_told()
        if set(names) <= set(DERIVED):  # nothing needs to be read
            channels = {name: self.channels_of(name) for name in names}
            return Layout(tuple(self.shape), self.classes_told, pictures=channels)
        self.setup("fit")
        values, held_out = (
            {name: value for name, value in told.items() if not callable(value)}
            for told in self._told
        )
        pictures = [name for name in names if name not in values]
        if self.classes_told and not pictures:
            some = torch.arange(min(EXAMPLES, len(self.val)))
            labels = self.val.batch(some)[1]
            assert labels is not None
            held_out[CLASS] = labels
        channels = {name: self.channels_of(name) for name in pictures}
        return layout_from(self.shape, self.classes_told, values, held_out, channels)

    @cached_property
    def _told(self) -> list[dict[str, Column | Picture]]:
        """Columns and pictures of the training and of the validation set, by name."""
        sets = (self.train, self.val)
        return [{name: self.told(name, one) for name in self.names_told()} for one in sets]

    @cached_property
    def tellers(self) -> list[Teller | None]:
        """Makers of the rows of the training and of the validation set; None: labels alone do."""
        if not self.layout.by_rows:
            return [None, None]
        self.setup("fit")
        return [Teller.of(self.layout, told) for told in self._told]

    def examples(self, number: int) -> Tensor | None:
        """Return what is told of the first samples of the validation set, [<= number, K]."""
        self.setup("fit")
        return ValBatches(self.val, min(number, len(self.val)), self.tellers[1])[0][1]

    @property
    def original(self) -> "Data":
        """The data that samples are measured against: these, but for latents."""
        return self

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
        batches = TrainBatches(self.train, self.batch_size, self.seed, self.flip, self.tellers[0])
        numbers = CountFrom(self._seen() + rank, world_size)
        return loader(batches, numbers, self._workers(), self._pinned())

    def val_dataloader(self) -> Loader:
        """Loader of validation batches in order; rank r of W takes batches r, r + W, ...

        All ranks have equally many, for Lightning's loop must not end earlier on one of them. What
        is too much repeats the first batches, and the module leaves it out.
        """
        rank, world_size = self._place()
        batches = ValBatches(self.val, self.batch_size, self.tellers[1])
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
    A table gives `numbers` and a `text` for each file, an .npz its vector (`vectors`), and files of
    the same names in another folder its mask (`masks`): conditional nets are told all of these.
    The decoded set is kept in memory if it takes at most `cache_gb` and no worker processes are
    asked for.
    """

    root: str
    size: Any
    labels: bool | str | None = None
    numbers: str | None = field(default=None, kw_only=True)
    text: str | None = field(default=None, kw_only=True)
    vectors: str | None = field(default=None, kw_only=True)
    masks: str | None = field(default=None, kw_only=True)
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
        self._read_conditions()
        fits = len(self.files) * self.bytes_of_a_sample() <= self.cache_gb * 1e9
        self.keep = fits and not self.num_workers

    def _read_conditions(self) -> None:
        """Read tables and list masks. Raises ConfigError or DdiffError for what does not fit."""
        root, files = self.listing.root, self.listing.files
        self._numbers = numbers_by(self.numbers, root, files) if self.numbers else {}
        if wrong := set(self._numbers) & {CLASS, TEXT, VECTOR, *DERIVED}:
            raise ConfigError(f"data.numbers: {wrong.pop()} is no name for a number; rename it")
        self._texts = texts_by(self.text, root, files) if self.text else {}
        self._vectors = vectors_by(self.vectors, root, files) if self.vectors else {}
        self._masks: dict[str, str] = {}
        if self.masks:
            if "mask" in (self.conditions or ()):
                raise ConfigError("data.conditions: mask is what data.masks gives; leave one out")
            self._mask_files = listing(Path(self.masks), self.suffixes, False)
            self._masks = paired(self._mask_files.root, files, self._mask_files.files)

    def names_told(self) -> list[str]:
        there = {TEXT: self._texts, VECTOR: self._vectors, "mask": self._masks}
        more = [name for name, values in there.items() if values]
        return [*self._numbers, *more, *super().names_told()]

    def told(self, name: str, source: Source) -> Column | Picture:
        assert isinstance(source, FolderSource)
        files = [file.relative_to(self.listing.root).as_posix() for file in source.files]
        if name in self._numbers:
            values = self._numbers[name]
            return torch.tensor([values.get(file, math.nan) for file in files])
        if name == TEXT:
            return [self._texts[file] for file in files]
        if name == VECTOR:
            return torch.stack([torch.from_numpy(self._vectors[file]).float() for file in files])
        if name == "mask" and self.masks:
            return Paired(self.mask_source(source, [self._masks[file] for file in files]))
        return super().told(name, source)

    def measured(self, name: str, x: Tensor) -> Tensor | None:
        return None if name == "mask" and self.masks else super().measured(name, x)

    @abstractmethod
    def mask_source(self, source: FolderSource, files: list[str]) -> FolderSource:
        """Return the masks [1, *S] of a source's samples, that lie in these files."""

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

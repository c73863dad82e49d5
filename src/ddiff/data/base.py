"""The contract of every data set, and the loaders they share."""

from abc import ABC, abstractmethod
from typing import Annotated, Any

from lightning.pytorch import LightningDataModule

from ddiff.data.loading import (
    CountFrom,
    Loader,
    TrainBatches,
    ValBatches,
    batches_per_epoch,
    loader,
)
from ddiff.data.source import Source
from ddiff.system.bounds import At, Seed
from ddiff.system.errors import ConfigError

BatchSize = Annotated[int, At(least=1, most=10**6)]
Workers = Annotated[int, At(least=0, most=1024)] | None
Pixels = Annotated[int, At(least=1, most=8192)]  # a side
VoxelCount = Annotated[int, At(least=1, most=1024)]  # a side
Fraction = Annotated[float, At(least=0, below=1)]


class Data(LightningDataModule, ABC):
    """A data set; subclasses write `sources`, and `prepare_data` where there is a download.

    Known once constructed: `shape` [C, *S], `num_classes`, `class_names`.
    Known after `setup`: `train` and `val`.
    Training resumes at batch `position`, which checkpoints carry.
    """

    shape: tuple[int, ...]
    num_classes: int | None = None
    class_names: list[str] | None = None
    train: Source
    val: Source

    def __init__(
        self, batch_size: BatchSize, seed: Seed, num_workers: Workers = None, flip: bool = False
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size)
        at_least(0, num_workers=num_workers or 0)
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.num_workers = num_workers
        self.position = 0

    @abstractmethod
    def sources(self) -> tuple[Source, Source]:
        """Training and validation set."""

    def default_workers(self) -> int:
        """Loader processes where `num_workers` is null: none for what is already in memory."""
        return 0

    def setup(self, stage: str) -> None:
        if not hasattr(self, "train"):  # Lightning asks once per stage
            self.train, self.val = self.sources()

    @property
    def batches_per_epoch(self) -> int:
        return batches_per_epoch(len(self.train), self.batch_size, self._place()[1])

    def train_dataloader(self) -> Loader:
        """Endless; starts at `position`."""
        rank, world_size = self._place()
        batches = TrainBatches(
            self.train, self.batch_size, self.seed, rank, world_size, flip=self.flip
        )
        return loader(batches, CountFrom(self.position), self._workers(), self._pinned())

    def val_dataloader(self) -> Loader:
        """In order; rank r of W takes batches r, r + W, ..."""
        rank, world_size = self._place()
        batches = ValBatches(self.val, self.batch_size)
        mine = range(rank, len(batches), world_size)
        return loader(batches, mine, self._workers(), self._pinned())

    def state_dict(self) -> dict[str, Any]:
        seen: Any = self.trainer.lightning_module.batches_seen if self.trainer else self.position
        return {"position": int(seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = int(state_dict["position"])

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self) -> int:
        return self.default_workers() if self.num_workers is None else self.num_workers

    def _pinned(self) -> bool:
        return bool(self.trainer) and self.trainer.strategy.root_device.type == "cuda"


def at_least(smallest: float, **options: float) -> None:
    for name, value in options.items():
        if value < smallest:
            raise ConfigError(f"data: {name} is {value}, but must be at least {smallest}")


def fraction(**options: float) -> None:
    for name, value in options.items():
        if not 0 <= value < 1:
            raise ConfigError(f"data: {name} is {value}, but must be in [0, 1)")

"""CIFAR-10, from its official binary version (the other one is a pickle, and is not read)."""

import tarfile
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ddiff.data.base import Channels, Data, PictureSize, check_channels, sides_of
from ddiff.data.source import Stored, as_shape, to_unit
from ddiff.system.downloads import Archive
from ddiff.system.errors import DdiffError
from ddiff.system.files import replacing

TAR = "cifar-10-binary.tar.gz"
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
FILES = Archive(
    sha256={TAR: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
    folders=(".", "cifar-10-batches-bin"),
)
CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer"]
CLASS_NAMES += ["dog", "frog", "horse", "ship", "truck"]
RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes


@dataclass(eq=False, repr=False)
class CIFAR10(Data):
    """50,000 colour images of 32 x 32 to train, 10,000 to validate; other sizes are resampled."""

    root: str
    download: bool = True
    size: PictureSize = 32
    channels: Channels = 3
    flip: bool = field(default=True, kw_only=True)
    num_classes = 10
    class_names = CLASS_NAMES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_channels(self.channels)
        self.shape = (self.channels, *sides_of(self.size, 2))

    def prepare_data(self) -> None:
        root = Path(self.root)
        if all(FILES.find(root, name) for name in TRAIN + TEST):
            return
        if not FILES.find(root, TAR):
            if not self.download:
                raise FILES.missing(root, [TAR])
            FILES.download(root, [TAR])
        tar = FILES.find(root, TAR)
        assert tar is not None
        unpack(tar, root / "cifar-10-batches-bin")

    def sources(self) -> tuple[Stored, Stored]:
        return self._read(TRAIN), self._read(TEST)

    def _read(self, names: tuple[str, ...]) -> Stored:
        every = torch.cat([read_records(self._path(name)) for name in names])
        images = every[:, 1:].reshape(-1, 3, 32, 32)
        return Stored(images, every[:, 0].clone(), partial(decoded, shape=self.shape))

    def _path(self, name: str) -> Path:
        if path := FILES.find(Path(self.root), name):
            return path
        raise DdiffError(
            f"{name} is not in {self.root}: get {TAR} from {FILES.mirrors[0]} "
            "and put it, or what it contains, there"
        )


def decoded(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return images of 0..255 as float32 in [-1, 1] of `shape`."""
    return as_shape(to_unit(images), shape)


def read_records(path: Path) -> Tensor:
    """Read the records of a file, [N, 3073] uint8. Raises DdiffError for a damaged file."""
    raw = bytearray(path.read_bytes())
    if not raw or len(raw) % RECORD:
        raise DdiffError(
            f"{path} is truncated or damaged: {len(raw)} bytes are not whole records of {RECORD}"
        )
    records = torch.frombuffer(raw, dtype=torch.uint8).view(-1, RECORD)
    if records[:, 0].max() > 9:
        raise DdiffError(f"{path} is not CIFAR-10: label {int(records[:, 0].max())}, not 0 to 9")
    return records


def unpack(tar: Path, folder: Path) -> None:
    """Extract only the files that are read, by name, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(tar) as archive:
            for name in TRAIN + TEST:
                member = archive.extractfile(f"cifar-10-batches-bin/{name}")
                if member is None:
                    raise KeyError(name)
                with replacing(folder / name) as file:
                    file.write(member.read())
    except (tarfile.TarError, EOFError, zlib.error, KeyError) as error:
        raise DdiffError(f"{tar} is truncated or damaged: {error}") from error
    except OSError as error:
        raise DdiffError(f"cannot unpack {tar} to {folder}: {error.strerror or error}") from error

"""MNIST and Fashion-MNIST, from their IDX files, plain or gzipped."""

import gzip
import math
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from ddiff.data.base import Channels, Data, PictureSize, check_channels, sides_of
from ddiff.data.source import Stored, as_shape, to_unit
from ddiff.system.downloads import Archive
from ddiff.system.errors import DdiffError

TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")

MNIST_FILES = Archive(
    sha256={
        TRAIN[0]: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        TRAIN[1]: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        TEST[0]: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        TEST[1]: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    folders=(".", "raw", "MNIST/raw"),
)
FASHION_FILES = Archive(
    sha256={
        TRAIN[0]: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        TRAIN[1]: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        TEST[0]: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        TEST[1]: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    folders=(".", "raw", "FashionMNIST/raw"),
)
DIGIT_NAMES = [str(digit) for digit in range(10)]
FASHION_NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat"]
FASHION_NAMES += ["sandal", "shirt", "sneaker", "bag", "ankle boot"]


@dataclass(eq=False, repr=False)
class MNIST(Data):
    """60,000 digits to train, 10,000 to validate.

    Size 32 is 28 with two pixels of background; others are resampled. Three channels are alike.
    """

    root: str
    size: PictureSize = 28
    download: bool = True
    channels: Channels = 1
    num_classes = 10
    class_names = DIGIT_NAMES
    archive = MNIST_FILES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_channels(self.channels)
        self.shape = (self.channels, *sides_of(self.size, 2))

    def prepare_data(self) -> None:
        names = [name for name in (*TRAIN, *TEST) if not self._find(name)]
        if names and not self.download:
            raise self.archive.missing(Path(self.root), names)
        self.archive.download(Path(self.root), names)

    def sources(self) -> tuple[Stored, Stored]:
        return self._read(*TRAIN), self._read(*TEST)

    def _find(self, name: str) -> Path | None:
        return self.archive.find(Path(self.root), name, name.removesuffix(".gz"))

    def _path(self, name: str) -> Path:
        if path := self._find(name):
            return path
        raise self.archive.missing(Path(self.root), [name])

    def _read(self, images_file: str, labels_file: str) -> Stored:
        images, labels = self._path(images_file), self._path(labels_file)
        x, y = read_idx(images, dims=3), read_idx(labels, dims=1)
        if x.shape[1:] != (28, 28):
            raise DdiffError(f"{images} holds images of {tuple(x.shape[1:])}, not (28, 28)")
        if len(x) != len(y) or not len(x):
            raise DdiffError(f"{images} holds {len(x)} images, {labels} {len(y)} labels")
        if y.max() > 9:
            raise DdiffError(f"{labels} holds the label {int(y.max())}; labels are 0 to 9")
        return Stored(x[:, None], y, partial(decoded, shape=self.shape))


class FashionMNIST(MNIST):
    """60,000 pieces of clothing to train, 10,000 to validate; size as in MNIST.

    Not flipped by default: nearly all shoes point left.
    """

    archive = FASHION_FILES
    class_names = FASHION_NAMES


def decoded(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return images of 28 x 28 as float32 in [-1, 1] of `shape`; 32 x 32 adds a border."""
    x = bordered(images) if shape[1:] == (32, 32) else to_unit(images)
    return as_shape(x, shape)


def bordered(images: Tensor) -> Tensor:
    """Images with two pixels of background on every side, float32 in [-1, 1]."""
    return to_unit(pad(images, (2, 2, 2, 2)))


def read_idx(path: Path, dims: int) -> Tensor:
    """Read the uint8 tensor of `dims` axes in an IDX file. Raises DdiffError for a damaged file.

    The file holds 00 00 08 <dims>, big-endian sizes, data; it may be gzipped.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DdiffError(f"{path} is truncated or damaged: {error}") from error
    except OSError as error:
        raise DdiffError(f"cannot read {path}: {error.strerror or error}") from error
    head = 4 + 4 * dims
    if raw[:4] != bytes((0, 0, 8, dims)):
        raise DdiffError(
            f"{path} is not an IDX file of bytes in {dims} dimensions: "
            f"it starts with {raw[:4].hex() or 'nothing'}, not 000008{dims:02x}"
        )
    sizes = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, head, 4)]
    if len(raw) != head + math.prod(sizes):
        raise DdiffError(
            f"{path} is truncated or damaged: {len(raw)} bytes, "
            f"its header announces {head + math.prod(sizes)}"
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=head).view(sizes)

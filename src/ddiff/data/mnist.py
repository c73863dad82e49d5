"""MNIST and Fashion-MNIST, from their IDX files."""

from pathlib import Path

from torch import Tensor

from ddiff.data.base import BatchSize, Data, Workers
from ddiff.data.idx import read_idx
from ddiff.data.source import Stored
from ddiff.system.bounds import Seed
from ddiff.system.downloads import Archive
from ddiff.system.errors import ConfigError, DdiffError

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


class MNIST(Data):
    """60,000 digits to train, 10,000 to validate; size 32 is 28 with two pixels of background."""

    num_classes = 10
    files = MNIST_FILES
    class_names = DIGIT_NAMES

    def __init__(
        self,
        batch_size: BatchSize,
        seed: Seed,
        root: str,
        size: int = 28,
        download: bool = True,
        num_workers: Workers = None,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, flip)
        self.shape, self.root, self.download = (1, size, size), Path(root), download
        self.pad = padding(size)

    def prepare_data(self) -> None:
        prepare(self.files, self.root, self.download)

    def sources(self) -> tuple[Stored, Stored]:
        return read(self.files, self.root, self.pad)


class FashionMNIST(MNIST):
    """60,000 pieces of clothing to train, 10,000 to validate; size as in MNIST.

    Not flipped by default: nearly all shoes point left.
    """

    files = FASHION_FILES
    class_names = FASHION_NAMES


def padding(size: int) -> int:
    if size not in (28, 32):
        raise ConfigError(f"data: size is {size}; choose 28 (as it is) or 32 (with a border)")
    return (size - 28) // 2


def prepare(files: Archive, root: Path, download: bool) -> None:
    names = [n for n in (*TRAIN, *TEST) if not files.find(root, n, n.removesuffix(".gz"))]
    if names and not download:
        raise files.missing(root, names)
    files.download(root, names)


def read(files: Archive, root: Path, pad: int) -> tuple[Stored, Stored]:
    return _read_split(files, root, TRAIN, pad), _read_split(files, root, TEST, pad)


def _read_split(files: Archive, root: Path, names: tuple[str, str], pad: int) -> Stored:
    images, labels = _path(files, root, names[0]), _path(files, root, names[1])
    x, y = read_idx(images, dims=3), read_idx(labels, dims=1)
    _check(images, labels, x, y)
    return Stored(x[:, None], y, pad)


def _path(files: Archive, root: Path, name: str) -> Path:
    path = files.find(root, name, name.removesuffix(".gz"))
    if path is None:
        raise files.missing(root, [name])
    return path


def _check(images: Path, labels: Path, x: Tensor, y: Tensor) -> None:
    if x.shape[1:] != (28, 28):
        raise DdiffError(f"{images} holds images of {tuple(x.shape[1:])}, not (28, 28)")
    if len(x) != len(y) or not len(x):
        raise DdiffError(f"{images} holds {len(x)} images, {labels} {len(y)} labels")
    if y.max() > 9:
        raise DdiffError(f"{labels} holds the label {int(y.max())}; labels are 0 to 9")

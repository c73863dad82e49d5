"""Arrays and pictures from files that anyone may have written.

Nothing is unpickled, a header is believed only as far as its file is long, and whatever is wrong
is one DdiffError that names the file.
"""

import math
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ddiff.system.archives import opened
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import regular

# up to 89 million pixels Pillow is silent, up to twice as many it warns, beyond it refuses
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
PARSING = threading.Lock()  # numpy parses a header by `ast`, where threads of Python 3.11 collide
BROKEN_ARRAY = (OSError, ValueError, TypeError, EOFError, SyntaxError, RecursionError, MemoryError,
                RuntimeError, zipfile.BadZipFile, zlib.error)  # fmt: skip
BROKEN_PICTURE = (OSError, ValueError, EOFError, SyntaxError, MemoryError, zlib.error,
                  Image.DecompressionBombError, Image.DecompressionBombWarning)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Shape, type and order of an array, from a header that fits the length of its file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def shaped(self, numbers: np.ndarray) -> np.ndarray:
        return numbers.reshape(self.shape, order=self.order)


def read_header(path: Path, what: str, key: str | None = None) -> Header:
    """The header of `read_array`'s array, without its numbers: a few kilobytes are read."""
    with _explained(path, what):
        archive = _archive(path)
        if archive is None:
            with open(path, "rb") as file:
                return _header(file, path.stat().st_size)
        with archive, _member(archive, path, key) as (file, length):
            return _header(file, length)


def read_array(path: Path, what: str, key: str | None = None, mapped: bool = True) -> np.ndarray:
    """The numbers in a .npy file, mapped into memory or loaded, or one array of an .npz file.

    `key` names the array of an .npz; "": `samples`, or the only one there is; None: the same
    where no option could name it. `what` says in messages what the file should hold: "the volume".
    The content decides, not the ending.
    """
    with _explained(path, what):
        archive = _archive(path)
        if archive is None:
            with open(path, "rb") as file:
                header = _header(file, path.stat().st_size)
                if mapped and header.count:
                    order, offset = header.order, file.tell()
                    return np.memmap(path, header.dtype, "r", offset, header.shape, order)
                return header.shaped(np.fromfile(file, header.dtype, header.count))
        with archive, _member(archive, path, key) as (file, length):
            return _array(file, length)


def read_arrays(path: Path, what: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by their names."""
    with _explained(path, what):
        archive = _archive(path)
        if archive is None:
            raise ValueError("it is one array, and no .npz of arrays with names")
        found = {}
        with archive:
            for info in archive.infolist():
                with archive.open(info) as file:
                    found[info.filename.removesuffix(".npy")] = _array(file, info.file_size)
        return found


@contextmanager
def open_picture(path: Path, what: str = "the image") -> Iterator[Image.Image]:
    """The picture in a file; its pixels are decoded in the block, and may prove broken there.

    A file of several pages or frames is refused: which of them would be the sample?
    """
    try:
        with opened(path) as file, Image.open(file) as image:
            # the MPO files of phones hold one photograph and previews of it
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise ValueError(
                    f"it holds {getattr(image, 'n_frames', 'several')} pages or frames, and one "
                    "file is one sample; save each to a file of its own"
                )
            yield image
    except BROKEN_PICTURE as error:
        why = "unknown format" if isinstance(error, UnidentifiedImageError) else _words(error)
        raise DdiffError(f"cannot read {what} {path}: {why}") from error


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    regular(path)
    try:
        yield
    except BROKEN_ARRAY as error:
        raise DdiffError(f"cannot read {what} {path}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


def _archive(path: Path) -> zipfile.ZipFile | None:
    with open(path, "rb") as file:
        start = file.read(6)
    if not start:
        raise ValueError("it is empty")
    if start.startswith(b"PK"):
        return zipfile.ZipFile(path)
    if not start.startswith(b"\x93NUMPY"):
        raise ValueError("it is no .npy or .npz file, and pickles are not loaded")
    return None


@contextmanager
def _member(
    archive: zipfile.ZipFile, path: Path, key: str | None
) -> Iterator[tuple[IO[bytes], int]]:
    """The array `key` of an .npz, as a file of so many bytes."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    several = not key and len(members) > 1 and "samples" not in members
    if not members or (several and key is None):
        raise ValueError(f"one array expected, found {', '.join(members) or 'none'}")
    wanted = key or ("samples" if "samples" in members else next(iter(members)))
    if several or wanted not in members:
        lacks = "several arrays" if several else f"no array {key!r}"
        raise ConfigError(f"{path}: {lacks}; choose key={'|'.join(members)}")
    with archive.open(members[wanted]) as file:
        yield file, members[wanted].file_size


def _array(file: IO[bytes], length: int) -> np.ndarray:
    """The array in a file of so many bytes."""
    header = _header(file, length)
    return header.shaped(np.frombuffer(bytearray(file.read()), header.dtype, header.count))


def _header(file: IO[bytes], length: int) -> Header:
    """Raises ValueError where the array is not of numbers, or longer than its file."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"it is of version {version} of the format, and no plain numbers")
    with PARSING:
        shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds no plain array, and pickles are not loaded")
    if dtype.kind not in "buif":
        raise ValueError(f"it holds {dtype}, not numbers")
    lacking = math.prod(shape) * dtype.itemsize - (length - file.tell())
    if lacking > 0 or any(size < 0 for size in shape):
        raise ValueError(
            f"it is cut short or damaged: its header announces {list(shape)} numbers of "
            f"{dtype.itemsize} bytes, and {lacking:,} bytes are missing"
        )
    return Header(shape, dtype, "F" if fortran else "C")

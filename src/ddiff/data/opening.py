"""Anyone's samples: a .npy, a .npz, or a folder of volumes or pictures.

They are read in pieces, so that any number fits in memory.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddiff.data.folders import ARRAYS, PICTURES, SCANS, listing
from ddiff.data.images import read_image
from ddiff.data.source import FolderSource, Source
from ddiff.data.volume_files import read_numbers, volume_header
from ddiff.system.errors import DdiffError
from ddiff.system.files import natural
from ddiff.system.readers import read_array, read_header
from ddiff.system.value_range import RANGES, Values

CHUNK = 2**26  # bytes of float32 at a time
CHANNELS = (1, 2, 3, 4)  # possible sizes of an axis of channels
NO_CHANNELS = "volumes [N, D, H, W] without a channel axis"
CHANNELS_LAST = "pictures with channels last"
SURVEYED = 16  # files, spread over a folder, from which its range of values is guessed


class Stack:
    """A source [N, C, *S] with a name for protocols.

    `read_as` says in words what was assumed about its values and axes.
    """

    def __init__(self, source: Source, name: str, read_as: str = "") -> None:
        self.source, self.name, self.read_as = source, name, read_as
        self.shape = tuple(source.batch(torch.zeros(1, dtype=torch.int64))[0].shape[1:])

    def __len__(self) -> int:
        return len(self.source)

    def __str__(self) -> str:
        return f"{self.name} ({len(self)})"

    def chunks(self, most: int | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield x [B, C, *S] float32 in [-1, 1] and y [B] or None, in order.

        most: only so many samples; None: all.
        """
        rows = torch.arange(min(len(self), most or len(self)))
        at_once = max(1, CHUNK // (4 * int(np.prod(self.shape))))
        for some in rows.split(min(at_once, 1024)):
            yield self.source.batch(some)

    def first(self, most: int) -> Tensor:
        """Return the first `most` samples in memory."""
        return torch.cat([x for x, _ in self.chunks(most)])

    def solids(self, most: int | None = None) -> Iterator[np.ndarray]:
        """Yield each volume's solid voxels, boolean [D, H, W]."""
        for x, _ in self.chunks(most):
            yield from (x[:, 0] > 0).numpy()

    @cached_property
    def labels(self) -> Tensor | None:
        """Labels [N], or None if a sample has none."""
        found = []
        for _, y in self.chunks():
            if y is None:
                return None
            found.append(y)
        return torch.cat(found)

    def digest(self) -> str:
        """Hash of the samples' values, in order."""
        found = hashlib.sha256(repr((len(self), self.shape)).encode())
        for x, _ in self.chunks():
            found.update(x.contiguous().numpy().tobytes())
        return found.hexdigest()


class Array:
    """A user's array [N, C, *S] as a source; `labels` [N] if it has some.

    All its values are checked when it is built: not-a-number, an unknown range and an empty array
    raise DdiffError. `values` says what they mean (`auto`: see `Values.guess`).
    """

    def __init__(
        self, array: np.ndarray, path: Path, values: str = "auto", labels: Tensor | None = None
    ) -> None:
        if array.dtype.kind not in "buif":
            raise DdiffError(f"{path} holds {array.dtype}, not numbers")
        if array.size == 0:
            raise DdiffError(f"{path} is empty: its shape is {list(array.shape)}")
        self.array, self.labels = array, labels
        seen = Values()
        rows = max(1, CHUNK // (16 * array[0].size))  # comparing bytes makes float64 of them
        for start in range(0, len(array), rows):
            part = array[start : start + rows]
            try:
                seen.see(part)
            except DdiffError as error:
                flat = np.asarray(part).reshape(len(part), -1)
                row = int((~np.isfinite(flat)).any(1).argmax())
                raise DdiffError(f"{path}: sample {start + row} has {error}") from error
        self.range, self.read_as = _decided(seen, path, values)

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        x = torch.from_numpy(np.asarray(self.array[indices.numpy()], dtype=np.float32))
        return _signed(x, self.range), None if self.labels is None else self.labels[indices]


def _decided(seen: Values, path: Path, value_range: str) -> tuple[str, str]:
    """Return the name of the range that the values at `path` are in, and a note for people."""
    declared = value_range != "auto"
    with _named(path):
        name = value_range if declared else seen.guess()
        seen.check(name, declared)
    return name, seen.note(name, declared)


def _signed(x: Tensor, name: str) -> Tensor:
    """Scale float32 `x` from the range `name` to [-1, 1], in place; values outside are cut."""
    low, high = RANGES[name]
    if name != "signed":
        x.sub_(low).mul_(2 / (high - low)).sub_(1)
    return x.clamp_(-1, 1)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Context in which errors about values begin with the path."""
    try:
        yield
    except DdiffError as error:
        raise DdiffError(f"{path} has {error}") from error


def opened(
    path: str | Path,
    shape: tuple[int, ...] | None = None,
    values: str = "auto",
    single: bool = False,
) -> Stack:
    """Open the samples at `path`, each of `shape` [C, *S] if that is given.

    `single`: an array of the shape of one sample, with or without its channels, is one.

    Labels come from the .json that `ddiff.sample` leaves beside its .npy, or from class folders.
    """
    path = Path(path)
    if not path.exists():
        raise DdiffError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path, shape, values)
    array = read_array(path, "the samples")
    if single and shape and array.shape in (shape, shape[1:] if shape[0] == 1 else shape):
        array = array.reshape(1, *shape)
    array, layout = _channelled(array, path, shape)
    source = Array(array, path, values, _labels(path, len(array)))
    return Stack(source, str(path), "; ".join(filter(None, (layout, source.read_as))))


def _channelled(
    array: np.ndarray, path: Path, shape: tuple[int, ...] | None
) -> tuple[np.ndarray, str]:
    """Return the array as [N, C, *S], and what was assumed.

    [N, *S] and channels-last pictures are accepted too if `shape` says so, or if no other reading
    makes sense.
    """
    forms = {"": array}
    if array.ndim >= 3:
        forms[NO_CHANNELS] = array[:, None]
    if array.ndim == 4 and array.shape[3] in CHANNELS:
        forms[CHANNELS_LAST] = array.transpose(0, 3, 1, 2)
    if shape is not None:
        for form in forms.values():
            if form.shape[1:] == tuple(shape):
                return form, ""
        raise DdiffError(
            f"{path} holds samples of shape {list(array.shape[1:])}, not {list(shape)}"
        )
    if array.ndim not in (4, 5):
        raise DdiffError(
            f"{path} has shape {list(array.shape)}; samples are [N, C, H, W] or [N, C, D, H, W]"
        )
    if array.ndim == 5 or array.shape[1] in CHANNELS:
        return array, ""
    layout = CHANNELS_LAST if CHANNELS_LAST in forms else NO_CHANNELS
    return forms[layout], layout


def _labels(path: Path, num: int) -> Tensor | None:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None
    try:
        y = json.loads(beside.read_text(encoding="utf-8")).get("y")
        labels = None if y is None else torch.tensor(y, dtype=torch.int64)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DdiffError(f"cannot read the labels in {beside}: {error}") from error
    if labels is not None and labels.shape != (num,):
        raise DdiffError(f"{beside} has {labels.numel()} labels for {num} samples")
    return labels


def holds_volumes(path: Path) -> bool:
    """Return True if the path is a folder of volumes, whose shape its files tell."""
    return path.is_dir() and any(any(path.rglob(f"*{suffix}")) for suffix in ARRAYS)


def _folder(path: Path, shape: tuple[int, ...] | None, values: str) -> Stack:
    volumes = holds_volumes(path)
    if not volumes and any(file.name.lower().endswith(SCANS) for file in path.rglob("*")):
        raise DdiffError(f"{path} holds scans; samples are read from .npy, .npz and pictures")
    found = listing(path, ARRAYS if volumes else PICTURES, None)
    found = replace(found, files=sorted(found.files, key=natural))
    if volumes:
        files = [found.root / file for file in found.files]
        one = shape or read_header(files[0], "the volume").shape
        if len(one) not in (3, 4):
            raise DdiffError(f"{files[0]} has shape {one}, and a volume has 3 axes or 4")
        one = (1, *one) if len(one) == 3 else tuple(one)
        seen = Values()
        for file in files[:: -(-len(files) // SURVEYED)]:
            _read(file, one, seen)
        name, read_as = _decided(seen, path, values)
        decode = partial(_volume, shape=one, value_range=name)
    else:
        if shape is None or len(shape) != 3:
            raise DdiffError(f"{path} is a folder of pictures: samples of what size? Say data=...")
        decode, read_as = partial(read_image, shape=tuple(shape)), ""
    return Stack(FolderSource(found, found.files, decode, keep=False), str(path), read_as)


def _volume(path: Path, shape: tuple[int, ...], value_range: str) -> Tensor:
    """Read a volume as `shape` [C, D, H, W], float32 in [-1, 1]."""
    seen = Values()
    volume = _read(path, shape, seen)
    _decided(seen, path, value_range)
    return _signed(torch.from_numpy(volume.astype(np.float32)), value_range)


def _read(path: Path, shape: tuple[int, ...], seen: Values) -> np.ndarray:
    volume = _exact(path, shape)
    with _named(path):
        seen.see(volume)
    return volume


def _exact(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a volume of exactly `shape` [C, D, H, W], with the values that are in the file."""
    header = volume_header(path, shape[1:])
    if header.shape not in (shape, shape[1:] if shape[0] == 1 else shape):
        wanted = shape[1:] if shape[0] == 1 else shape
        raise DdiffError(f"{path} has shape {header.shape}, but {wanted} is wanted")
    return read_numbers(path, shape[1:]).reshape(shape)

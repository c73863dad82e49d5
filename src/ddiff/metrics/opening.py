"""Anyone's samples, opened: a .npy, a .npz, or a folder of volumes or pictures."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddiff.data.folders import PICTURES, VOLUMES, Listing, listing
from ddiff.data.images import read_image
from ddiff.data.source import FolderSource
from ddiff.data.voxels import read_volume
from ddiff.metrics.stack import Array, Stack, decided, to_signed
from ddiff.system.errors import DdiffError
from ddiff.system.files import natural
from ddiff.system.readers import read_array, read_header
from ddiff.system.value_range import Values

CHANNELS = (1, 2, 3, 4)  # an axis of another size is no axis of channels
SURVEYED = 16  # files of a folder, spread over it, that say what its numbers mean


def opened(path: str | Path, shape: tuple[int, ...] | None = None, values: str = "auto") -> Stack:
    """The samples at `path`, each of `shape` [C, *S] where that is given.

    Labels come from the .json that `ddiff.sample` leaves beside its .npy, or from class folders.
    """
    path = Path(path)
    if not path.exists():
        raise DdiffError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path, shape, values)
    array, layout = _channelled(read_array(path, "the samples"), path, shape)
    source = Array(array, path, values, _labels(path, len(array)))
    return Stack(source, str(path), "; ".join(filter(None, (layout, source.read_as))))


def holds_volumes(path: Path) -> bool:
    """Return True if the path is a folder of volumes, which tells its own shape."""
    return path.is_dir() and any(any(path.rglob(f"*{suffix}")) for suffix in VOLUMES)


def _channelled(
    array: np.ndarray, path: Path, shape: tuple[int, ...] | None
) -> tuple[np.ndarray, str]:
    """[N, C, *S], and what was assumed. [N, *S] and channels-last pictures are taken too: where
    `shape` says so, or where no other reading makes sense."""
    forms = {tuple(array.shape[1:]): array}
    if array.ndim >= 3:
        forms[1, *array.shape[1:]] = array[:, None]
    if array.ndim == 4 and array.shape[3] in CHANNELS:
        forms[array.shape[3], *array.shape[1:3]] = array.transpose(0, 3, 1, 2)
    if shape is None:
        if array.ndim not in (4, 5):
            raise DdiffError(
                f"{path} has shape {list(array.shape)}; samples are [N, C, H, W] or [N, C, D, H, W]"
            )
        if array.ndim == 5 or array.shape[1] in CHANNELS:
            return array, ""
        if array.shape[3] in CHANNELS:
            return array.transpose(0, 3, 1, 2), "pictures with channels last"
        return array[:, None], "volumes [N, D, H, W] without a channel axis"
    if tuple(shape) in forms:
        return forms[tuple(shape)], ""
    raise DdiffError(
        f"{path} holds samples of shape {list(array.shape[1:])}; the reference has {list(shape)}"
    )


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


def _folder(path: Path, shape: tuple[int, ...] | None, values: str) -> Stack:
    volumes = holds_volumes(path)
    found = listing(path, VOLUMES if volumes else PICTURES, None)
    found = Listing(found.root, sorted(found.files, key=natural), found.class_names)
    if volumes:
        files = [found.root / file for file in found.files]
        size = (0, *(shape or read_header(files[0], "the volume").shape))[-1]
        seen = Values()
        for file in files[:: -(-len(files) // SURVEYED)]:
            _read(file, size, seen)
        name, read_as = decided(seen, path, values)
        decode = partial(_volume, size=size, value_range=name)
    else:
        if shape is None or len(shape) != 3:
            raise DdiffError(f"{path} is a folder of pictures: samples of what size? Say data=...")
        decode, read_as = partial(read_image, size=shape[-1], channels=shape[0]), ""
    return Stack(FolderSource(found, found.files, decode, keep=False), str(path), read_as)


def _volume(path: Path, size: int, value_range: str) -> Tensor:
    """[1, size, size, size] float32 in [-1, 1]."""
    seen = Values()
    volume = _read(path, size, seen)
    decided(seen, path, value_range)
    return to_signed(torch.from_numpy(volume.astype(np.float32)), value_range)[None]


def _read(path: Path, size: int, seen: Values) -> np.ndarray:
    volume = read_volume(path, size)
    try:
        seen.see(volume)
    except DdiffError as error:
        raise DdiffError(f"{path} has {error}") from error
    return volume

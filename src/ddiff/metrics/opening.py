"""Anyone's samples, opened: a .npy, a .npz, or a folder of volumes or pictures."""

import json
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddiff.data.folders import FolderSource, Listing, listing
from ddiff.data.images import SUFFIXES as PICTURES
from ddiff.data.images import read_image
from ddiff.data.voxels import SUFFIXES as VOLUMES
from ddiff.data.voxels import decode_volume, guess, only_array, spread
from ddiff.errors import DdiffError
from ddiff.files import natural
from ddiff.metrics.stack import Array, Stack


def opened(path: str | Path, shape: tuple[int, ...] | None = None, values: str = "auto") -> Stack:
    """The samples at `path`, each of `shape` [C, *S] where that is given.

    Labels come from the .json that `ddiff.sample` leaves beside its .npy, or from class folders.
    """
    path = Path(path)
    if not path.exists():
        raise DdiffError(f"{path}: no such file or folder")
    if path.is_dir():
        return Stack(_folder(path, shape, values), str(path))
    array = _channelled(_loaded(path), path, shape)
    return Stack(Array(array, path, values, _labels(path, len(array))), str(path))


def _loaded(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else only_array(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DdiffError(f"cannot read the samples {path}: {error}") from error


def _channelled(array: np.ndarray, path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    """[N, C, *S]; [N, *S] and channels-last pictures are taken too where `shape` says so."""
    forms = {tuple(array.shape[1:]): array}
    if array.ndim >= 3:
        forms[1, *array.shape[1:]] = array[:, None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        forms[array.shape[3], *array.shape[1:3]] = array.transpose(0, 3, 1, 2)
    if shape is None:
        if array.ndim not in (4, 5):
            raise DdiffError(
                f"{path} has shape {list(array.shape)}; samples are [N, C, H, W] or [N, C, D, H, W]"
            )
        return array
    if tuple(shape) in forms:
        return forms[tuple(shape)]
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


def _folder(path: Path, shape: tuple[int, ...] | None, values: str) -> FolderSource:
    volumes = any(path.rglob("*.npy")) or any(path.rglob("*.npz"))
    found = listing(path, VOLUMES if volumes else PICTURES, None)
    found = Listing(found.root, sorted(found.files, key=natural), found.class_names)
    files = [found.root / file for file in found.files]
    if volumes:
        size = shape[-1] if shape else _side(files[0])
        if values == "auto":
            values = guess([_loaded(file) for file in spread(files, 16)])
        decode = partial(decode_volume, size=size, values=values)
    else:
        if shape is None or len(shape) != 3:
            raise DdiffError(f"{path} is a folder of pictures: samples of what size? Say data=...")
        decode = partial(read_image, size=shape[-1], channels=shape[0])
    return FolderSource(found, found.files, decode, keep=False)


def _side(file: Path) -> int:
    return _loaded(file).shape[-1]

"""Samples to look at, read and brought into one form: images [N, C, H, W] or volumes [N, D, H, W],
float32 in [-1, 1].

Files are .npy, .npz, .png, a folder of them, or a run. Nothing is ever unpickled.
"""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import natural
from ddiff.system.readers import open_picture, read_array
from ddiff.system.value_range import RANGES, Values

SUFFIXES = (".npy", ".npz", ".png")
Kind = Literal["images", "volumes"]
CHOICES = ("auto", *RANGES)
FURTHEST = 10.0  # beyond this, "auto" does not believe that the values were meant as [-1, 1]


@dataclass(frozen=True)
class Found:
    """Samples in [-1, 1], [N, C, H, W] or [N, D, H, W], and where they were found."""

    samples: np.ndarray
    kind: Kind
    captions: list[str]
    source: Path
    total: int

    @property
    def title(self) -> str:
        some = "" if len(self.samples) == self.total else f", the first {len(self.samples)}"
        return f"{self.source.resolve().name}: {self.total} {self.kind}{some}"


def read(
    path: str | Path,
    num: int = 16,
    value_range: str = "auto",
    key: str | None = None,
    spread: bool = False,
) -> Found:
    """The first `num` samples of a file, of a folder's files, or of a run's newest samples; with
    `spread`, as many evenly from all of a file.

    A run's samples are in [-1, 1] by contract; elsewhere `value_range` says what the numbers mean.
    `key` chooses an array of an .npz. Raises DdiffError for what is missing, broken or not samples.
    """
    source = Path(path)
    if num < 1:
        raise ConfigError(f"num={num} must be at least 1")
    if not source.exists():
        raise DdiffError(f"{source}: no such file or folder")
    if (source / "samples").is_dir():
        source = _newest(source / "samples")
        value_range = "signed" if value_range == "auto" else value_range
    files = _files_of(source) if source.is_dir() else []
    arrays = [_load(file, key) for file in files[:num] or [source]]
    if (files or [source])[0].suffix == ".png":
        value_range = "bytes"
    try:
        if files:
            samples = _stacked(arrays, files[:num])
            captions, total = [file.stem for file in files[:num]], len(files)
        else:
            array = _channels_first(arrays[0])
            total = len(array)
            num = min(num, total)
            rows = [i * total // num for i in range(num)] if spread else range(num)
            samples, captions = array[list(rows)], [f"#{i}" for i in rows]
        samples = signed(samples, value_range)
        kind = kind_of(samples.shape)
        samples = as_images(samples) if kind == "images" else as_volumes(samples)
    except ConfigError:
        raise
    except DdiffError as error:
        raise DdiffError(f"{source}: {error}") from error
    return Found(samples, kind, captions, source, total)


def kind_of(shape: tuple[int, ...]) -> Kind:
    """[N, C, H, W] with C 1 or 3: images; [N, C, D, H, W], [N, D, H, W], [D, H, W]: volumes."""
    if len(shape) == 4 and shape[1] in (1, 3):
        return "images"
    if len(shape) in (3, 4, 5):
        return "volumes"
    raise DdiffError(
        f"cannot show an array of shape {list(shape)}: expected images [N, C, H, W] (C 1 or 3), "
        f"or volumes [N, C, D, H, W], [N, D, H, W] or [D, H, W]"
    )


def as_images(samples: Any) -> np.ndarray:
    """float32 [N, C, H, W], C of 1 or 3. Raises DdiffError for another shape or a NaN."""
    array = finite(samples)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise DdiffError(f"images must be [N, C, H, W] with C 1 or 3, not {list(array.shape)}")
    return array


def as_volumes(samples: Any) -> np.ndarray:
    """float32 [N, D, H, W], of [N, C, D, H, W] (the first channel), [N, D, H, W] or [D, H, W]; else
    a DdiffError."""
    array = finite(samples)
    if array.ndim in (3, 4, 5):
        array = array[:, 0] if array.ndim == 5 else array
        return array.reshape(-1, *array.shape[-3:])
    raise DdiffError(
        f"volumes must be [N, C, D, H, W], [N, D, H, W] or [D, H, W], not {list(array.shape)}"
    )


def one_volume(volume: Any) -> np.ndarray:
    """float32 [D, H, W], of [D, H, W] or the same with leading ones."""
    volumes = as_volumes(volume)
    if len(volumes) != 1:
        raise DdiffError(f"expected one volume [D, H, W], not {len(volumes)} of them")
    return volumes[0]


def finite(samples: Any) -> np.ndarray:
    """float32, same shape; bool is occupancy, so it becomes -1 and 1."""
    array = np.asarray(samples)
    if array.dtype.kind not in "biuf":
        raise DdiffError(f"samples must be numbers or bool, not {array.dtype}")
    if array.size == 0:
        raise DdiffError(f"there is nothing to show: the array has shape {list(array.shape)}")
    if array.dtype.kind == "b":
        return np.where(array, np.float32(1), np.float32(-1))
    array = array.astype(np.float32, copy=False)
    bad = ~np.isfinite(array)
    if bad.any():
        first = np.argwhere(bad)[0].tolist()
        raise DdiffError(
            f"{bad.sum()} of {array.size} values are NaN or infinite, the first at {first}"
        )
    return array


def signed(samples: Any, value_range: str = "auto") -> np.ndarray:
    """float32 in [-1, 1], of a stranger's array. `value_range` says what it uses:

    signed: [-1, 1] already; unit: [0, 1]; bytes: 0..255; auto: bool is occupancy, and of others the
    bulk of the values decides (`Values.guess`).
    """
    if value_range not in CHOICES:
        raise ConfigError(f"value_range={value_range}: choose from {', '.join(CHOICES)}")
    given, array = np.asarray(samples), finite(samples)
    if given.dtype.kind == "b":
        return array
    if value_range == "auto":
        values = Values()
        values.see(given)
        value_range = values.guess()
        if value_range != "signed" or max(-values.least, values.most) > FURTHEST:
            values.check(value_range, declared=False)
    scale = {"signed": None, "unit": 2.0, "bytes": 2.0 / 255.0}[value_range]
    return array if scale is None else array * np.float32(scale) - 1


def _stacked(arrays: list[np.ndarray], files: list[Path]) -> np.ndarray:
    """[N, C, H, W] or [N, D, H, W] of files that must each hold one sample of one shape."""
    samples = []
    for array, file in zip(arrays, files, strict=True):
        if array.shape != arrays[0].shape:
            raise DdiffError(
                f"{file.name} has shape {list(array.shape)}, "
                f"{files[0].name} has {list(arrays[0].shape)}: one page shows one shape"
            )
        array = _channels_first(array)
        if len(array) != 1:
            many = f"{file.name} holds {len(array)} samples"
            raise DdiffError(f"{many}; look at it alone: path={file}")
        samples.append(array[0])
    return np.stack(samples)


def _channels_first(array: np.ndarray) -> np.ndarray:
    """[N, ...]: a lone [H, W], [H, W, C], [C, H, W] or [D, H, W] gets its N = 1."""
    shape = array.shape
    if array.ndim < 2:
        raise DdiffError(f"an array of shape {list(shape)} is neither an image nor a volume")
    if array.ndim == 2:
        return array[None, None]
    if array.ndim == 3:
        return array.transpose(2, 0, 1)[None] if shape[2] in (1, 3) else array[None]
    if array.ndim == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        return array.transpose(0, 3, 1, 2)
    return array


def _newest(folder: Path) -> Path:
    files = [file for file in folder.glob("*.npy") if file.is_file()]
    if not files:
        raise DdiffError(f"{folder}: no samples yet (*.npy)")
    return max(files, key=lambda file: (file.stat().st_mtime_ns, natural(file.name)))


def _files_of(folder: Path) -> list[Path]:
    """The folder's .npy files, or else its .png files, with step_9 before step_10; or else those of
    its class folders, one of each class in turn."""
    for folders in ([folder], sorted(folder.iterdir())):
        for pattern in ("[!.]*.npy", "[!.]*.png"):
            found = [[file for file in sub.glob(pattern) if file.is_file()] for sub in folders]
            turns = zip_longest(*(sorted(files, key=lambda f: natural(f.name)) for files in found))
            if files := [file for turn in turns for file in turn if file is not None]:
                return files
    raise DdiffError(f"{folder}: neither a run (samples/*.npy) nor a folder of .npy or .png files")


def _load(file: Path, key: str | None) -> np.ndarray:
    if file.suffix not in SUFFIXES:
        raise DdiffError(f"{file}: cannot read {file.suffix or 'this'}; {', '.join(SUFFIXES)} only")
    if file.suffix != ".png":
        return read_array(file, "the samples", key or "")
    with open_picture(file) as image:  # [C, H, W] in 0..255; transparency is dropped
        if image.mode.startswith("I"):  # 16 bits
            return np.asarray(image, np.float32)[None] / 257
        grey = image.mode in ("1", "L", "LA")
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[None] if grey else pixels.transpose(2, 0, 1)

"""Samples from files: .npy, .npz, .png, a folder of them, or a run. Nothing is ever unpickled."""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ddiff.pages.view.samples import Kind, as_images, as_volumes, kind_of, signed
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import natural
from ddiff.system.readers import open_picture, read_array

SUFFIXES = (".npy", ".npz", ".png")


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
    files = _files_of(source)[:num] if source.is_dir() else []
    arrays = [_load(file, key) for file in files or [source]]
    if (files or [source])[0].suffix == ".png":
        value_range = "bytes"
    try:
        samples, captions, total = _joined(arrays, files, num, spread)
        samples = signed(samples, value_range)
        kind = kind_of(samples.shape)
        samples = as_images(samples) if kind == "images" else as_volumes(samples)
    except ConfigError:
        raise
    except DdiffError as error:
        raise DdiffError(f"{source}: {error}") from error
    total = len(_files_of(source)) if source.is_dir() else total
    return Found(samples, kind, captions, source, total)


def _joined(
    arrays: list[np.ndarray], files: list[Path], num: int, spread: bool
) -> tuple[np.ndarray, list[str], int]:
    """One batch, its captions, and how many samples there were."""
    if files:
        shapes = [array.shape for array in arrays]
        odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            raise DdiffError(
                f"{files[odd].name} has shape {list(shapes[odd])}, "
                f"{files[0].name} has {list(shapes[0])}: one page shows one shape"
            )
        batch = np.stack([_single(a, f) for a, f in zip(arrays, files, strict=True)])
        return batch, [file.stem for file in files], len(files)
    array = _channels_first(arrays[0])
    num = min(num, len(array))
    rows = [i * len(array) // num for i in range(num)] if spread else range(num)
    return array[list(rows)], [f"#{i}" for i in rows], len(array)


def _single(array: np.ndarray, file: Path) -> np.ndarray:
    """[C, H, W] or [D, H, W] of a file that must hold one sample."""
    array = _channels_first(array)
    if len(array) != 1:
        raise DdiffError(f"{file.name} holds {len(array)} samples; look at it alone: path={file}")
    return array[0]


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
    for pattern in ("[!.]*.npy", "[!.]*.png"):
        files = [file for file in folder.glob(pattern) if file.is_file()]
        if files:
            return sorted(files, key=_order)
    for pattern in ("[!.]*.npy", "[!.]*.png"):
        classes = [sorted(sub.glob(pattern), key=_order) for sub in sorted(folder.iterdir())]
        turns = zip_longest(*classes)
        files = [file for turn in turns for file in turn if file is not None]
        if files:
            return files
    raise DdiffError(f"{folder}: neither a run (samples/*.npy) nor a folder of .npy or .png files")


def _order(file: Path) -> list[int | str]:
    return natural(file.name)


def _load(file: Path, key: str | None) -> np.ndarray:
    if file.suffix not in SUFFIXES:
        raise DdiffError(f"{file}: cannot read {file.suffix or 'this'}; {', '.join(SUFFIXES)} only")
    return _load_png(file) if file.suffix == ".png" else read_array(file, "the samples", key or "")


def _load_png(file: Path) -> np.ndarray:
    """[C, H, W] in 0..255, of 8 or 16 bits; transparency is dropped."""
    with open_picture(file) as image:
        if image.mode.startswith("I"):
            return np.asarray(image, np.float32)[None] / 257
        grey = image.mode in ("1", "L", "LA")
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[None] if grey else pixels.transpose(2, 0, 1)

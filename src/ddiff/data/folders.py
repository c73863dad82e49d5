"""A folder of files as a data set: what is in it, its classes, its validation part."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddiff.data.source import to_unit
from ddiff.devices import cpu_count
from ddiff.errors import ConfigError, DdiffError
from ddiff.random import key


@dataclass(frozen=True)
class Listing:
    root: Path
    files: list[str]  # relative to root, with forward slashes, sorted
    class_names: list[str] | None  # None: not labelled

    def label(self, file: str) -> int:
        assert self.class_names is not None
        return self.class_names.index(file.split("/")[0])

    def split(self, val_fraction: float) -> tuple[list[str], list[str]]:
        """(train, val) by a hash of each name, so that adding files moves none.

        Where that leaves one of them empty, it gets one file; a single file is both.
        """
        rank = {file: key("val", file) / 2**63 for file in self.files}
        val = [file for file in self.files if rank[file] < val_fraction]
        val = val or [min(self.files, key=rank.__getitem__)]
        train = [file for file in self.files if file not in set(val)]
        return train or [max(self.files, key=rank.__getitem__)], val


def listing(root: Path, suffixes: tuple[str, ...], labels: bool | None) -> Listing:
    """All files below root with one of these suffixes; hidden ones are left out.

    labels: whether the first folder below root is the class; None: where every file is in a
    folder and there are at least two. The order of the classes is that of `dataset.json`
    (written by `python -m ddiff.data`) where there is one, else alphabetical.
    """
    if not root.is_dir():
        raise DdiffError(f"the data folder {root} does not exist")
    files = sorted(_walk(root, suffixes))
    if not files:
        raise DdiffError(f"no {', '.join(suffixes)} files in {root}")
    loose = next((file for file in files if "/" not in file), None)
    folders = sorted({file.split("/")[0] for file in files if "/" in file})
    if labels and loose:
        raise ConfigError(f"data: labels is true, but {root / loose} is in no class folder")
    if labels is None:
        labels = loose is None and len(folders) > 1
    return Listing(root, files, _class_order(root, folders) if labels else None)


def _walk(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = [n for n in names if n.lower().endswith(suffixes) and not n.startswith(".")]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in wanted]
    return found


def _class_order(root: Path, folders: list[str]) -> list[str]:
    try:
        names = json.loads((root / "dataset.json").read_text())["class_names"]
    except (OSError, ValueError, KeyError, TypeError):
        return folders
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known and set(folders) <= set(names) else folders


class FolderSource:
    """Files decoded when asked for, and kept in memory afterwards where `keep` says so."""

    def __init__(
        self, listing: Listing, files: list[str], decode: Callable[[Path], Tensor], keep: bool
    ) -> None:
        self.files = [listing.root / file for file in files]
        self.labels = None
        if listing.class_names is not None:
            self.labels = torch.tensor([listing.label(file) for file in files])
        self.decode = decode  # path -> [C, *S], uint8 or float32 in [-1, 1]
        self._kept: dict[int, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        samples = self._samples(indices.tolist())
        if len({sample.dtype for sample in samples}) > 1:
            samples = [to_unit(sample) for sample in samples]
        return to_unit(torch.stack(samples)), None if self.labels is None else self.labels[indices]

    def _samples(self, rows: list[int]) -> list[Tensor]:
        kept = self._kept
        if kept is None:
            return [self.decode(self.files[row]) for row in rows]
        absent = sorted(set(rows) - kept.keys())
        if absent:
            with ThreadPoolExecutor(min(cpu_count(), 8)) as pool:  # decoders release the GIL
                decoded = pool.map(self.decode, [self.files[row] for row in absent])
                kept.update(zip(absent, decoded, strict=True))
        return [kept[row] for row in rows]

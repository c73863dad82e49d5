"""A look at a data set before training: what its files hold, and what becomes of them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from ddiff.data.base import Data, FolderData
from ddiff.data.folders import NIFTI
from ddiff.data.source import each
from ddiff.data.volume_files import ending_of, volume_header
from ddiff.data.voxels import Voxels, range_of
from ddiff.pages.view import picture, save_png
from ddiff.system.console import console, show_table
from ddiff.system.value_range import RANGES

LISTED = 4  # shapes or spacings in a line
RANGED = 200  # files, spread over the set, whose values are looked at
SHOWN = 16  # samples in the picture


def check(data: Data, out: Path) -> None:
    """Print a table of the data set, and write a picture of its first samples to `out`.

    Nothing else is written. Files that do not fit are the error that a training would raise, after
    the table of what there is.
    """
    data.prepare_data()
    if isinstance(data, FolderData):
        show_table((), _files(data), "files", left=(0, 1))
    data.setup("fit")
    show_table((), [*_steps(data), *_samples(data)], "samples", left=(0, 1))
    x, _ = data.train.batch(torch.arange(min(SHOWN, len(data.train))))
    shown = x if x.shape[1] in (1, 3) else x[:, : 3 if x.shape[1] > 3 else 1]
    save_png(picture(shown.numpy()), out)
    console.print(f"picture     {out}")


def _files(data: FolderData) -> list[tuple[str, str]]:
    """Return rows on what the files hold, before anything is done to them."""
    endings = _counted(ending_of(file) for file in data.files)
    rows = [("number", f"{len(data.files)} ({endings})")]
    if not isinstance(data, Voxels):
        return rows
    headers = each(partial(volume_header, sides=data.shape[1:]), data.files)
    some = data.files[:: -(-len(data.files) // RANGED)]
    ranges = each(partial(range_of, shape=data.shape), some)
    least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
    of = "" if len(some) == len(data.files) else f", of {len(some)} files"
    spacings = (_sides(h.spacing, "{:.4g}") + " mm" if h.spacing else "not said" for h in headers)
    return [
        *rows,
        ("shapes", _counted(_sides(header.shape) for header in headers)),
        ("numbers", _counted(str(header.dtype) for header in headers)),
        ("values", f"{least:g} to {most:g}{of}"),
        ("spacing", _counted(spacings)),
    ]


def _steps(data: Data) -> list[tuple[str, str]]:
    """Return a row for each step between a file and a sample."""
    if not isinstance(data, Voxels):
        return []
    rows = []
    if any(ending_of(file) in NIFTI for file in data.files):
        rows.append(("axes", "right, anterior, superior (NIfTI's closest canonical orientation)"))
    if data.spacing:
        rows.append(("resampled", f"to {_sides(data.spacing, '{:.4g}')} mm, linearly"))
    if data.percentiles:
        low, high = data.percentiles
        rows.append(("values", f"percentiles {low:g} and {high:g} of each file become -1 and 1"))
    else:
        low, high = data.window or RANGES[data.range]
        rows.append(("values", f"{low:g} becomes -1 and {high:g} becomes 1"))
    sides = {data.prepared(data.range).sides(header) for header in data.headers.values()}
    if sides != {data.shape[1:]}:
        rows.append(("fit", f"{data.fit} to {_sides(data.shape[1:])}"))
    return rows


def _samples(data: Data) -> list[tuple[str, str]]:
    rows = [("shape", _sides(data.shape))]
    if isinstance(data, FolderData):
        size = len(data.files) * data.bytes_of_a_sample() / 1e9
        how = "kept in memory" if data.keep else "read anew each time: more than data.cache_gb"
        rows.append(("memory", f"{size:.3g} GB, {how}"))
    else:
        rows.append(("memory", f"{4 * math.prod(data.shape) / 1e6:.3g} MB a sample in float32"))
    rows += [("train", str(len(data.train))), ("val", str(len(data.val)))]
    return rows + ([("classes", ", ".join(data.class_names))] if data.class_names else [])


def _counted(words: Iterable[str]) -> str:
    """Return words with their numbers, the most frequent first: `48x56x40 in 38, 48x56x41 in 2`."""
    found = Counter(words).most_common()
    if len(found) == 1:
        return found[0][0]
    more = f", and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(f"{word} in {number}" for word, number in found[:LISTED]) + more


def _sides(sides: Sequence[float], form: str = "{}") -> str:
    return "x".join(form.format(side) for side in sides)

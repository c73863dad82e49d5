"""Tables, CSV, TSV, JSON lines or Parquet, with a row for each file; and vectors for each.

This module does not import torch: see `ddiff.data.folders`.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import regular
from ddiff.system.readers import read_arrays

FILES = ("file", "file_name", "filename", "path", "image")  # columns that name a file
LABELS = ("label", "class", "category")  # columns that hold its class
MANY = 20  # classes; more than that, and more than half as many as files, are no classes


def classes_by(table: str, root: Path, files: list[str]) -> dict[str, str]:
    """Return the class of every file, by a table.

    - `table`: its name, in `root` or from the current folder, and after a colon the column of the
      classes: `labels.csv:breed`.
    - `files`: relative to `root`, with forward slashes.

    Raises DdiffError for a table that cannot be read or lacks a file, ConfigError for a column that
    is not there or holds no classes.
    """
    name, _, column = table.partition(":")
    path, rows = _opened("labels", name, root)
    by_label = column or _column(path, rows, LABELS, "holds the classes")
    classes = _by_file("labels", path, rows, by_label, files)
    if lacking := [file for file in files if file not in classes]:
        raise DdiffError(
            f"{path} has no label for {len(lacking)} of {len(files)} files, such as {lacking[0]}"
        )
    number = len(set(classes.values()))
    if number > MANY and number > len(files) / 2:
        raise ConfigError(
            f"data.labels: column {by_label} of {path} has {number} values for {len(files)} files; "
            f"labels are classes; numbers are data.numbers={name}:{by_label}"
        )
    return classes


def numbers_by(table: str, root: Path, files: list[str]) -> dict[str, dict[str, float]]:
    """Return the numbers of files by the name of a column: those that a table gives.

    - `table`: its name and, after a colon, the columns: `labels.csv:porosity+age`.

    Raises as `classes_by` does, and DdiffError for a value that is no number.
    """
    name, _, columns = table.partition(":")
    if not columns:
        raise ConfigError(f"data.numbers: which columns? Say data.numbers={name}:COLUMN+COLUMN")
    path, rows = _opened("numbers", name, root)
    found: dict[str, dict[str, float]] = {}
    for column in columns.split("+"):
        texts = _by_file("numbers", path, rows, column, files)
        found[column] = {}
        for file, text in texts.items():
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise DdiffError(
                    f"data.numbers: {path} has no number as {column} of {file}: {text!r}"
                )
            found[column][file] = value
        if not texts:
            raise DdiffError(f"data.numbers: {path} has no {column} for any of the files")
    return found


def texts_by(table: str, root: Path, files: list[str]) -> dict[str, str]:
    """Return the texts of all files, by a table and its column: `labels.csv:caption`.

    Raises as `classes_by` does.
    """
    name, _, column = table.partition(":")
    if not column:
        raise ConfigError(f"data.text: which column? Say data.text={name}:COLUMN")
    path, rows = _opened("text", name, root)
    texts = _by_file("text", path, rows, column, files)
    if lacking := [file for file in files if file not in texts]:
        raise DdiffError(
            f"data.text: {path} has no {column} for {len(lacking)} of {len(files)} files, such as "
            f"{lacking[0]}"
        )
    return texts


def vectors_by(name: str, root: Path, files: list[str]) -> dict[str, np.ndarray]:
    """Return the vectors [D] of all files, by an .npz of a vector for each name of a file.

    Raises DdiffError for a file that cannot be read, lacks a vector, or holds something else.
    """
    path = _found("vectors", name, root)
    vectors = _matched(read_arrays(path, "the vectors"), files)
    if lacking := [file for file in files if file not in vectors]:
        raise DdiffError(
            f"data.vectors: {path} has no array for {len(lacking)} of {len(files)} files, such as "
            f"{lacking[0]}"
        )
    first = vectors[files[0]]
    for file in files:
        if vectors[file].ndim != 1 or vectors[file].shape != first.shape or not first.size:
            raise DdiffError(
                f"data.vectors: {path} has {list(vectors[file].shape)} for {file} and "
                f"{list(first.shape)} for {files[0]}; all must be of one length"
            )
        if not np.isfinite(vectors[file]).all():
            raise DdiffError(f"data.vectors: {path} has values that are not finite for {file}")
    return vectors


def paired(root: Path, files: list[str], others: list[str]) -> dict[str, str]:
    """Return which of other files belongs to each file: the one of the same name, perhaps with
    another ending. Raises DdiffError for a file without one, whose folder is `root`."""
    by_name = {_without_ending(other): other for other in others}
    if lacking := [file for file in files if _without_ending(file) not in by_name]:
        raise DdiffError(
            f"data.masks: {root} has no file of the name {_without_ending(lacking[0])}, as "
            f"{len(lacking)} of {len(files)} files need one"
        )
    return {file: by_name[_without_ending(file)] for file in files}


def _found(option: str, name: str, root: Path) -> Path:
    """Return the path of a file that lies in `root` or in the current folder."""
    path = next((p for p in (root / name, Path(name)) if p.is_file()), None)
    if path is None:
        raise DdiffError(f"data.{option}: there is no file {name} in {root} or in this folder")
    return path


def _opened(option: str, name: str, root: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Return the path of a table and its rows."""
    path = _found(option, name, root)
    rows = list(_rows(path))
    if not rows:
        raise DdiffError(f"{path} has no rows")
    return path, rows


def _by_file(
    option: str, path: Path, rows: list[dict[str, Any]], column: str, files: list[str]
) -> dict[str, str]:
    """Return what a column says of files (see `_matched`); those without a value are left out."""
    by_file = _column(path, rows, FILES, "names the files")
    if column not in rows[0]:
        raise ConfigError(f"data.{option}: {path} has no column {column}; it has {_names(rows)}")
    return _matched(
        {
            str(row.get(by_file)).removeprefix("./"): str(row[column])
            for row in rows
            if row.get(column) not in (None, "")
        },
        files,
    )


def _matched(found: dict[str, Any], files: list[str]) -> dict[str, Any]:
    """Return what is found by the name of a file, for those of these files that have it.

    A name may leave out the ending, and the folder of a file's name that is alone.
    """
    said = {}
    alone = Counter(end for file in files for end in _without_folder(file))
    for file in files:
        names = [file, _without_ending(file)]
        names += [end for end in _without_folder(file) if alone[end] == 1]
        name = next((name for name in names if name in found), None)
        if name is not None:
            said[file] = found[name]
    return said


def ordered(classes: set[str]) -> list[str]:
    """Return the names of classes in their order: by number if all are whole, else by name."""
    whole = all(re.fullmatch("-?[0-9]+", name) for name in classes)
    return sorted(classes, key=lambda name: (int(name) if whole else 0, name))


def _without_ending(file: str) -> str:
    folder, _, name = file.rpartition("/")
    name = name.removesuffix(".gz").rpartition(".")[0] or name
    return f"{folder}/{name}" if folder else name


def _without_folder(file: str) -> tuple[str, str]:
    """Return the name of a file with and without its ending."""
    return PurePosixPath(file).name, _without_ending(PurePosixPath(file).name)


def _names(rows: list[dict[str, Any]]) -> str:
    return ", ".join(map(str, rows[0]))


def _column(path: Path, rows: list[dict[str, Any]], names: tuple[str, ...], what: str) -> str:
    """Return the first of these names that is a column."""
    found = next((name for name in names if name in rows[0]), None)
    if found is None:
        raise ConfigError(
            f"data.labels: no column of {path} {what}; it has {_names(rows)}, and wanted is "
            f"{' or '.join(names)}, or data.labels={path.name}:COLUMN for the classes"
        )
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table. Raises DdiffError for a damaged file and another kind of file."""
    ending = path.suffix.lower()
    try:
        if ending in (".csv", ".tsv"):
            with open(regular(path), newline="", encoding="utf-8-sig") as file:
                yield from csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ",")
        elif ending == ".jsonl":
            with open(regular(path), encoding="utf-8") as file:
                for line in filter(str.strip, file):
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"a line holds {line.strip()[:40]}, no object")
                    yield row
        elif ending == ".parquet":
            yield from _parquet(regular(path))
        else:
            raise ValueError("tables end in .csv, .tsv, .jsonl or .parquet")
    except (OSError, ValueError, csv.Error) as error:
        raise DdiffError(f"cannot read the table {path}: {error}") from error


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{path} needs pyarrow: pip install 'ddiff[tables]'") from None
    return pyarrow.parquet.read_table(path).to_pylist()

"""Tables of labels: CSV, TSV, JSON lines or Parquet, with a row for each file.

This module does not import torch: see `ddiff.data.folders`.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import regular

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
    path = next((p for p in (root / name, Path(name)) if p.is_file()), None)
    if path is None:
        raise DdiffError(f"data.labels: there is no table {name} in {root} or in this folder")
    rows = list(_rows(path))
    if not rows:
        raise DdiffError(f"{path} has no rows")
    by_file = _column(path, rows, FILES, "names the files")
    by_label = column or _column(path, rows, LABELS, "holds the classes")
    if by_label not in rows[0]:
        raise ConfigError(f"data.labels: {path} has no column {by_label}; it has {_names(rows)}")
    found = {
        str(row.get(by_file)).removeprefix("./"): str(row[by_label])
        for row in rows
        if row.get(by_label) not in (None, "")
    }
    classes = {}
    alone = Counter(end for file in files for end in _without_folder(file))
    for file in files:  # a row may leave out the ending, and the folder of a name that is alone
        names = [file, _without_ending(file)]
        names += [end for end in _without_folder(file) if alone[end] == 1]
        label = next((found[name] for name in names if name in found), None)
        if label is not None:
            classes[file] = label
    if lacking := [file for file in files if file not in classes]:
        raise DdiffError(
            f"{path} has no label for {len(lacking)} of {len(files)} files, such as {lacking[0]}"
        )
    number = len(set(classes.values()))
    if number > MANY and number > len(files) / 2:
        raise ConfigError(
            f"data.labels: column {by_label} of {path} has {number} values for {len(files)} files; "
            "labels are classes, and numbers of a sample are not learned yet"
        )
    return classes


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

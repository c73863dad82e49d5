"""Files inside tar archives, read in place: a path such as photos/train-0001.tar/000017.jpg.

Nothing is unpacked. The headers of an archive are read once and say where each member lies, so that
members can be read in any order.
"""

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ddiff.system.errors import DdiffError
from ddiff.system.files import regular

BROKEN = (OSError, EOFError, ValueError, tarfile.TarError)


class Member(NamedTuple):
    """Place of a file in an archive, in bytes."""

    offset: int
    size: int


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, or a member of an archive, to read its bytes."""
    found = _member(path)
    if found is None:
        with open(regular(path), "rb") as file:
            yield file
        return
    archive, member = found
    with open(archive, "rb") as file:
        file.seek(member.offset)
        yield BytesIO(file.read(member.size))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of a member of an archive."""
    found = _member(path)
    return path.stat().st_size if found is None else found[1].size


def members(archive: Path) -> dict[str, Member]:
    """Return the files in a tar archive by their names.

    Raises DdiffError for an archive that is compressed, cut short or damaged, and for a name that
    leaves it.
    """
    try:
        state = os.stat(regular(archive))
        return _members(archive, state.st_size, state.st_mtime_ns)
    except BROKEN as error:
        raise DdiffError(f"cannot read the archive {archive}: {error}") from error


def _member(path: Path) -> tuple[Path, Member] | None:
    """Return the archive that a path leads into, and its member; None for a file of its own."""
    for archive in path.parents:
        if archive.suffix == ".tar" and archive.is_file():
            name = path.relative_to(archive).as_posix()
            try:
                return archive, members(archive)[name]
            except KeyError:
                raise DdiffError(f"{archive} has no member {name}") from None
    return None


@lru_cache(maxsize=4096)
def _members(archive: Path, size: int, _: int) -> dict[str, Member]:
    found = {}
    with open(archive, "rb") as file:
        start = file.read(262)
    if start[:2] == b"\x1f\x8b" or start[:3] in (b"BZh", b"\xfd7z") or start[:4] == b"(\xb5/\xfd":
        raise ValueError("it is compressed, and members are read in any order; unpack it to a .tar")
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            if not member.isreg():
                continue
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"its member {member.name} would lie outside of it")
            if member.offset_data + member.size > size:
                raise ValueError(f"it is cut short, in its member {member.name}")
            found[name.as_posix()] = Member(member.offset_data, member.size)
    return found

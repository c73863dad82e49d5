"""Which programs may run: those exported here, and those that DDIFF_TRUST names by their hash."""

import os
from pathlib import Path

from ddiff.system.errors import DdiffError
from ddiff.system.files import cache_folder

DIGITS = 16  # of a hash, that are enough to name a file


def remember(sha256: str) -> None:
    """Notes that this file was made here, by this user."""
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        (_folder() / sha256).touch()
    except OSError as error:
        raise DdiffError(f"cannot write {_folder()}: {error.strerror or error}") from error


def require(path: Path, sha256: str, about: str) -> None:
    """Raises unless the file was exported here or is named in DDIFF_TRUST."""
    named = os.environ.get("DDIFF_TRUST", "").split(",")
    if any(len(n) >= DIGITS and sha256.startswith(n) for n in named):
        return
    if not (_folder() / sha256).is_file():
        raise DdiffError(
            f"refused {path}: {about}, and it was not exported here; if you trust who made it, "
            f"set DDIFF_TRUST={sha256[:DIGITS]}"
        )


def _folder() -> Path:
    return cache_folder("exported")

"""Files are whole or absent."""

from pathlib import Path

import pytest

from ddiff.system.errors import DdiffError
from ddiff.system.files import replacing


def half(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"new")
        raise OSError(28, "No space left on device")


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.npy"
    with replacing(path) as file:
        file.write(b"old")
    with pytest.raises(DdiffError, match=r"cannot write .*x.npy: No space left"):
        half(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["x.npy"]

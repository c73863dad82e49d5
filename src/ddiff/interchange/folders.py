"""Folders of other libraries that `run=` and `init=` take."""

from pathlib import Path

from ddiff.interchange.diffusers import is_diffusers, read_diffusers
from ddiff.interchange.foreign import Foreign
from ddiff.interchange.monai import is_monai, read_monai


def is_foreign(source: str | Path) -> bool:
    """Return True for a folder of diffusers or MONAI; a run is neither."""
    folder = Path(source)
    if not str(source) or not folder.is_dir() or (folder / "checkpoints" / "last.ckpt").is_file():
        return False
    return is_diffusers(folder) or is_monai(folder)


def read_foreign(folder: str | Path, shape: list[int] | None = None) -> Foreign:
    """The net in a folder, with its config. `shape`: [C, *S], where the folder does not say it."""
    folder = Path(folder)
    return read_diffusers(folder, shape) if is_diffusers(folder) else read_monai(folder, shape)

"""Checkpoint files: written atomically, read without executing anything from them."""

import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from omegaconf import DictConfig

from ddiff.errors import DdiffError
from ddiff.files import replacing

ARTIFACTS = (".ts", ".onnx", ".pt2")  # how the names of exported files end


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """The file appears under its name complete, or not at all."""
    try:
        with replacing(path) as file:
            torch.save(checkpoint, file)
    except (DdiffError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free / 1e6
        raise DdiffError(
            f"cannot write {path} ({free:.0f} MB free on its disk); the checkpoint before "
            f"it is intact ({str(error).splitlines()[0]})"
        ) from error


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The dictionary in a ddiff checkpoint: tensors and plain values; nothing in it is executed."""
    if not path.is_file():
        raise DdiffError(f"there is no checkpoint {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters is refused below
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DdiffError(
            f"refused {path}: it holds more than tensors and plain values, or is no checkpoint"
        ) from error
    except (RuntimeError, EOFError, BadZipFile, OSError, ValueError) as error:
        raise DdiffError(
            f"cannot read {path}: it is truncated or no checkpoint ({str(error).splitlines()[0]})"
        ) from error
    facts = checkpoint.get("ddiff") if isinstance(checkpoint, dict) else None
    if not isinstance(facts, dict) or not {"config", "overrides"} <= facts.keys():
        raise DdiffError(f"{path} is not a ddiff checkpoint: it carries no ddiff config")
    return checkpoint


def find_checkpoint(source: str) -> Path:
    """`from=` and `ckpt_path=` take a checkpoint or a run directory (its last checkpoint)."""
    path = Path(source)
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        if not last.is_file():
            runs = sorted(p.parent.parent for p in path.glob("**/checkpoints/last.ckpt"))
            hint = f"; did you mean {runs[-1]}?" if runs else ""
            raise DdiffError(f"{path} is not a run: it has no checkpoints/last.ckpt{hint}")
        return last
    if not path.is_file():
        raise DdiffError(f"there is no run or checkpoint {path}")
    if path.name.endswith(ARTIFACTS):
        raise DdiffError(f"{path} is an artifact: it can be sampled from and evaluated, no more")
    return path


def config_of(checkpoint: dict[str, Any]) -> DictConfig:
    """The resolved config that a checkpoint was trained with; still to be validated."""
    return DictConfig(checkpoint["ddiff"]["config"])

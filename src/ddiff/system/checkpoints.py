"""Checkpoint files: written atomically, checked whole before they are read, never executed."""

import hashlib
import pickle
import shutil
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import replacing

# what zipfile raises where the archive itself is damaged
DAMAGE = (BadZipFile, EOFError, LookupError, RuntimeError, ValueError, struct.error, zlib.error)
ARTIFACTS = (".ts", ".onnx", ".pt2", ".engine")  # how the names of exported files end
FOREIGN = "; nor is it a folder of diffusers (unet/config.json) or MONAI (configs/inference.json)"


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
    checkpoint = load_tensors(path, map_location)
    facts = checkpoint.get("ddiff") if isinstance(checkpoint, dict) else None
    if not isinstance(facts, dict) or not {"config", "overrides"} <= facts.keys():
        raise DdiffError(f"{path} is not a ddiff checkpoint: it carries no ddiff config")
    return checkpoint


def load_tensors(path: Path, map_location: Any = "cpu") -> Any:
    """Read a file of torch: tensors and plain values; nothing in it is executed."""
    if not path.is_file():
        raise DdiffError(f"there is no checkpoint {path}")
    check_sums(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters is refused below
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DdiffError(
            f"refused {path}: it holds more than tensors and plain values, or is no checkpoint"
        ) from error
    except Exception as error:  # a foreign file can make torch's reader raise anything
        raise DdiffError(
            f"cannot read {path}: it is truncated or no checkpoint "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error


def ranks_of(checkpoint: dict[str, Any]) -> int:
    """Number of ranks that trained up to a checkpoint.

    The first versions did not record it. There, the sums of the callback Timesteps have a row for
    each rank; without them, trainer.devices says it.
    """
    facts = checkpoint["ddiff"]
    if "ranks" in facts:
        return int(facts["ranks"])
    sums = checkpoint.get("callbacks", {}).get("Timesteps", {}).get("sums")
    if sums is not None:
        return len(sums)
    trainer = facts["config"].get("trainer", {})
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    return devices * nodes if isinstance(devices, int) and devices > 0 else 1


def batches_of_all_ranks(checkpoint: dict[str, Any]) -> int:
    """Number of micro-batches that all ranks together have trained on.

    The first versions counted those of one rank.
    """
    number = int(checkpoint["batches_seen"])
    return number if "ranks" in checkpoint["ddiff"] else number * ranks_of(checkpoint)


def check_sums(path: Path) -> None:
    """Raise where a bit of the file has changed since it was written.

    A checkpoint is a zip archive that carries the CRC-32 of every member: 1.6 GB/s on a core, a
    seventh of the time of SHA-256.
    """
    try:
        if path.stat().st_size == 0:
            raise DdiffError(f"{path} is empty (0 bytes): its writing was cut short")
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":  # a pickle or another format; torch.load decides
                return
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise DdiffError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGE as error:
        raise DdiffError(f"cannot read {path}: it is truncated or damaged ({error})") from error
    if damaged:
        raise DdiffError(
            f"{path} is damaged: the checksum of {damaged} in it does not match; "
            "take another copy, or another checkpoint of the run"
        )


def find_checkpoint(source: str) -> Path:
    """`run=` and `ckpt_path=` take a checkpoint or a run directory (its last checkpoint)."""
    if not source:
        raise ConfigError("the name of a run or checkpoint is empty (an unset shell variable?)")
    path = Path(source)
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        if not last.is_file():
            runs = sorted(p.parent.parent for p in path.glob("**/checkpoints/last.ckpt"))
            hint = f"; did you mean {runs[-1]}?" if runs else ""
            raise DdiffError(
                f"{path} is not a run: it has no checkpoints/last.ckpt{hint or FOREIGN}"
            )
        return last
    if not path.is_file():
        raise DdiffError(f"there is no run or checkpoint {path}")
    if path.suffix == ".safetensors":
        raise DdiffError(
            f"{path} holds weights: it can be sampled from, evaluated, exported, and trained from "
            "by init=, no more"
        )
    if path.name.endswith(ARTIFACTS):
        raise DdiffError(f"{path} is an artifact: it can be sampled from and evaluated, no more")
    return path


def digest(net: nn.Module) -> str:
    """A hash of all its numbers and their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.float().contiguous().cpu().numpy())
    return found.hexdigest()


def short_digest(net: nn.Module) -> str:
    """First eight digits of the net's digest, for people."""
    return digest(net)[:8]

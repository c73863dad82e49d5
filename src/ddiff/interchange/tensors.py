"""Files of named tensors: safetensors, and PyTorch's own, of which nothing is executed."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddiff.system.checkpoints import check_sums
from ddiff.system.errors import DdiffError
from ddiff.system.files import regular, replacing

SAFE = ".safetensors"
PICKLED = (".bin", ".pt", ".pth")
NESTED = ("state_dict", "model_state_dict", "model", "net", "unet")  # where trainers put a net


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name, on the CPU. Raises DdiffError with one line."""
    regular(path)
    if path.suffix == SAFE:
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if path.suffix not in PICKLED:
        raise DdiffError(f"cannot read {path}: a file of weights ends in {SAFE} or {PICKLED}")
    check_sums(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DdiffError(f"refused {path}: it holds more than tensors and plain values") from error
    except Exception as error:  # a foreign file can make torch's reader raise anything
        raise DdiffError(
            f"cannot read {path}: it is truncated or no file of weights "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error
    return _state_dict(found, path)


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors in what a trainer saved, without the prefix of a wrapper."""
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        raise DdiffError(f"{path} holds no state dict: names and tensors")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries beside its tensors."""
    regular(path)
    with _opened(path) as file:
        return dict(file.metadata() or {})


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, complete or not at all."""
    _library(path)
    from safetensors.torch import save

    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as file:
        file.write(save(whole, {"format": "pt", **metadata}))


def _library(path: Path) -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise DdiffError(
            f"{path} needs the package safetensors: pip install safetensors ({error})"
        ) from error
    return safetensors


def _opened(path: Path) -> Any:
    library = _library(path)
    try:
        return library.safe_open(path, framework="pt")
    except (library.SafetensorError, OSError, ValueError) as error:
        raise DdiffError(
            f"cannot read {path}: it is cut short or no safetensors file ({error})"
        ) from error

"""Nets of other libraries: a folder of diffusers or MONAI as a net of ddiff with its config."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddiff.build import build_net
from ddiff.config.validation import mismatch, validate
from ddiff.interchange.names import Library, names_in, to_ours
from ddiff.interchange.tensors import read_tensors
from ddiff.system.errors import DdiffError
from ddiff.system.files import regular

T = TypeVar("T")
UNET = {"_target_": "ddiff.nets.UNet", "num_classes": None, "patch_size": 1, "input_skip": False,
        "checkpoint_levels": [], "bounded": False}  # fmt: skip


@dataclass(frozen=True)
class Foreign:
    """A net of another library: its config, as that of a run, and the file of its weights."""

    cfg: DictConfig
    weights: Path
    library: Library

    def state_dict(self, net: nn.Module) -> dict[str, Tensor]:
        """The weights under the names of `net`, which was built from the config."""
        own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        node = self.cfg.net
        names = names_in(self.library, own, len(node.channels), node.num_blocks)
        return to_ours(read_tensors(self.weights), names, self.library, own, self.weights)

    def load(self) -> nn.Module:
        """The net on the CPU, frozen."""
        with torch.device("meta"):  # takes no memory: the config may not fit the weights
            state = self.state_dict(build_net(self.cfg.net))
        net = build_net(self.cfg.net)
        net.load_state_dict(state)
        return net.requires_grad_(False).eval()


def config_of(
    name: str,
    net: Mapping[str, Any],
    schedule: Mapping[str, Any],
    objective: str,
    solver: Mapping[str, Any],
    clamp: float | None,
) -> DictConfig:
    """The config of a run that would have trained this net, validated."""
    cfg = DictConfig(
        {
            "name": name,
            "net": {**UNET, **net},
            "schedule": dict(schedule),
            "objective": {"_target_": f"ddiff.diffusion.objectives.{objective}"},
            "module": {"_target_": "ddiff.training.modules.DDPM"},
            "solver": {"_partial_": True, **solver},
            "guidance": {"_target_": "ddiff.diffusion.guidance.ClassifierFree", "scale": 0.0},
            "precision": {"_target_": "ddiff.system.precision.Precision", "dtype": "float32"},
            "backend": {"_target_": "ddiff.backends.Auto"},
            "sampling": {"num_samples": 64, "batch_size": 32, "y": "auto", "clamp": clamp},
        }
    )
    validate(cfg, bounds=False)
    return cfg


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DdiffError with one line."""
    try:
        found = json.loads(regular(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DdiffError(f"cannot read {path}: it is no JSON ({error})") from error
    except OSError as error:
        raise DdiffError(f"cannot read {path}: {error.strerror or error}") from error
    if not isinstance(found, dict):
        raise DdiffError(f"cannot read {path}: it holds no object of options")
    return found


def parsed(kind: type[T], tree: Mapping[str, Any], path: Path, ignore: Sequence[str] = ()) -> T:
    """The options of another library's class, checked by their types in the dataclass `kind`.

    Names that begin with _ are passed over, and those in `ignore`; ("*",) passes over every name
    that `kind` has not. Raises DdiffError that names the file and the option.
    """
    hints = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if name.startswith("_") or name in ignore or (name not in hints and ignore == ("*",)):
            continue
        if name not in hints:
            if value is None or value is False:
                continue  # an option of another version, which is off
            raise DdiffError(
                f"{path}: {name}={value!r} is no option of {kind.__name__} that ddiff knows"
            )
        if problem := mismatch(value, hints[name]):
            raise DdiffError(f"{path}: {name}: {problem}")
        values[name] = value
    needed = [field.name for field in fields(kind) if field.default is MISSING]  # pyright: ignore[reportArgumentType]
    if missing := [name for name in needed if name not in values]:
        raise DdiffError(f"{path}: {', '.join(missing)}: missing")
    return kind(**values)


def shaped(channels: int, sides: Sequence[int], said: list[int] | None, path: Path) -> list[int]:
    """The shape of a sample: as `said`, whose first number may be 0 for the net's own, or [C, *S].

    Raises DdiffError if the net has another number of channels.
    """
    if said is None:
        return [channels, *sides]
    if said[0] not in (0, channels):
        raise DdiffError(f"{path}: the net has {channels} channels, and shape says {said[0]}")
    return [channels, *said[1:]]


def attended_sizes(levels: Sequence[bool], shape: Sequence[int]) -> list[int]:
    """Sizes of the feature maps that get attention, from one answer a level."""
    return [max(shape[1:]) // 2**level for level, attend in enumerate(levels) if attend]

"""Bundles of MONAI: a `DiffusionModelUNet` with its scheduler, read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ddiff.interchange.diffusers import OBJECTIVES, VARIANCES
from ddiff.interchange.foreign import (
    Foreign,
    attended_sizes,
    config_of,
    parsed,
    read_json_object,
    shaped,
)
from ddiff.interchange.names import MONAI
from ddiff.interchange.tensors import PICKLED, SAFE
from ddiff.system.bounds import Count, Filled, Positive, Share
from ddiff.system.errors import DdiffError

CONFIGS = ("inference.json", "train.json")
NETS, SCHEDULERS = ("DiffusionModelUNet",), ("DDPMScheduler", "DDIMScheduler")
SCHEDULES = {"linear_beta": "linear", "scaled_linear_beta": "scaled_linear"}
SCHEDULES |= {name.removesuffix("_beta"): ours for name, ours in SCHEDULES.items()}  # as before
SETTINGS = ("use_flash_attention", "use_combined_linear", "upcast_attention", "dropout_cattn",
            "transformer_num_layers", "cross_attention_dim")  # fmt: skip


@dataclass(frozen=True)
class DiffusionModelUNet:
    """Options of MONAI's class of this name that ddiff's U-Net has too; defaults as there."""

    spatial_dims: Literal[2, 3]
    in_channels: Count
    out_channels: Count
    num_res_blocks: Count | list[Count] = (2, 2, 2, 2)  # pyright: ignore
    channels: Annotated[list[Count], Filled()] = (32, 64, 64, 64)  # pyright: ignore
    attention_levels: list[bool] = (False, False, True, True)  # pyright: ignore
    norm_num_groups: Count = 32
    norm_eps: Positive = 1e-6
    resblock_updown: Literal[False] = False
    num_head_channels: int | list[int] = 8
    with_conditioning: Literal[False] = False
    num_class_embeds: None = None
    include_fc: Literal[True] = True


@dataclass(frozen=True)
class MonaiScheduler:
    """Options of MONAI's DDPMScheduler and DDIMScheduler that ddiff has too; defaults as there."""

    num_train_timesteps: Count = 1000
    schedule: str = "linear_beta"
    beta_start: Share = 1e-4
    beta_end: Share = 2e-2
    clip_sample: bool = True
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small"


def is_monai(folder: Path) -> bool:
    """Return True for a folder as MONAI's bundles are."""
    return any((folder / "configs" / name).is_file() for name in CONFIGS)


def read_monai(folder: Path, shape: list[int] | None) -> Foreign:
    """The net in a bundle: `configs/inference.json` and the only file in `models/`.

    - `shape`: [C, *S] of a sample, which a bundle does not say.

    Raises DdiffError with one line for what ddiff cannot express.
    """
    path = next(p for n in CONFIGS if (p := folder / "configs" / n).is_file())
    tree = read_json_object(path)
    options = parsed(DiffusionModelUNet, _older(_node(tree, NETS, path)), path, ignore=SETTINGS)
    node = _node(tree, SCHEDULERS, path)
    if "schedule" not in node and "beta_schedule" in node:
        node["schedule"] = node["beta_schedule"]
    scheduler = parsed(MonaiScheduler, node, path, ignore=("*",))
    if scheduler.schedule not in SCHEDULES:
        known = ", ".join(name for name in SCHEDULES if name.endswith("_beta"))
        raise DdiffError(f"{path}: schedule: ddiff reads {known}, not {scheduler.schedule}")
    if shape is None:
        letters = ",".join("DHW"[-options.spatial_dims :])
        raise DdiffError(
            f"{folder} does not say the size of its samples; add shape=[{options.in_channels},"
            f"{letters}] with numbers"
        )
    shape = shaped(options.in_channels, [], shape, path)
    if len(shape) != 1 + options.spatial_dims:
        raise DdiffError(f"{path}: spatial_dims is {options.spatial_dims}, and shape {shape}")
    name = str(node["_target_"]).rpartition(".")[2]
    cfg = config_of(
        folder.resolve().name,
        _net(options, path, shape),
        {
            "_target_": f"ddiff.diffusion.schedules.{SCHEDULES[scheduler.schedule]}",
            "T": scheduler.num_train_timesteps,
            "beta_1": scheduler.beta_start,
            "beta_T": scheduler.beta_end,
            "rescale": False,
        },
        OBJECTIVES[scheduler.prediction_type],
        _solver(scheduler, name),
        1.0 if scheduler.clip_sample else None,
    )
    return Foreign(cfg, _weights(folder), MONAI)


def _solver(scheduler: MonaiScheduler, name: str) -> dict[str, Any]:
    where = "ddiff.diffusion.solvers"
    if name == "DDIMScheduler":
        return {"_target_": f"{where}.ddim", "num_steps": 50, "spacing": "linear"}
    variance = VARIANCES[scheduler.variance_type]
    return {"_target_": f"{where}.ddpm", "num_steps": None, "variance": variance}


def _net(options: DiffusionModelUNet, path: Path, shape: list[int]) -> dict[str, Any]:
    channels, levels = list(options.channels), list(options.attention_levels)
    if options.in_channels != options.out_channels:
        raise DdiffError(
            f"{path}: out_channels: {options.out_channels} is not in_channels, "
            f"{options.in_channels}: conditions that are joined to the input have no place in ddiff"
        )
    if len(levels) != len(channels):
        raise DdiffError(f"{path}: attention_levels: not one a level of channels")
    return {
        "shape": shape,
        "channels": channels,
        "embedding": {
            "_target_": "ddiff.nets.Sinusoidal",
            "dim": channels[0],
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        },
        "num_blocks": _one(options.num_res_blocks, [True] * len(channels), "num_res_blocks", path),
        "attention": attended_sizes(levels, shape),
        "mid_attention": True,
        "head_dim": _one(
            options.num_head_channels, [*levels[:-1], True], "num_head_channels", path
        ),
        "dropout": 0.0,
        "modulation": "shift",
        "groups": options.norm_num_groups,
        "norm_eps": options.norm_eps,
        "downsample_padding": "both",
    }


def _one(value: Any, used: list[bool], name: str, path: Path) -> int:
    """The number that all levels share where it is used."""
    if isinstance(value, int):
        return value
    found = {one for one, use in zip(value, used, strict=False) if use}
    if len(found) != 1:
        raise DdiffError(f"{path}: {name}: ddiff has one number for all levels, not {list(value)}")
    return found.pop()


def _node(tree: Mapping[str, Any], classes: tuple[str, ...], path: Path) -> dict[str, Any]:
    """The first definition of one of these classes anywhere in a bundle's config."""
    for value in tree.values():
        if isinstance(value, Mapping):
            if str(value.get("_target_", "")).rpartition(".")[2] in classes:
                return {name: _resolved(one, tree) for name, one in value.items()}
            if any(isinstance(one, Mapping) for one in value.values()):
                try:
                    return _node(value, classes, path)
                except DdiffError:
                    continue
    raise DdiffError(f"{path} defines no {' or '.join(classes)}")


def _resolved(value: Any, tree: Mapping[str, Any]) -> Any:
    """A value, where it is a reference such as @spatial_dims to another of the config."""
    name = value[1:] if isinstance(value, str) and re.fullmatch(r"@[\w#:]+", value) else None
    if name is None:
        return value
    found: Any = tree
    for word in re.split("[#:]+", name):
        found = found.get(word) if isinstance(found, Mapping) else None
    return found


def _older(node: dict[str, Any]) -> dict[str, Any]:
    """The options under the names that MONAI gives them today."""
    if "num_channels" in node and "channels" not in node:
        node["channels"] = node.pop("num_channels")
    return node


def _weights(folder: Path) -> Path:
    models = folder / "models"
    found = sorted(p for p in models.glob("*") if p.suffix in (SAFE, *PICKLED))
    preferred = [p for p in found if p.stem in ("model", "diffusion_model", "model_unet")]
    if len(found) == 1 or len(preferred) == 1:
        return (preferred or found)[0]
    names = ", ".join(path.name for path in found) or "none"
    raise DdiffError(f"{models} must hold one file of weights, or model.pt; it has {names}")

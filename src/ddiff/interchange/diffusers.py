"""Folders of diffusers: a `UNet2DModel` with its scheduler, read and written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from omegaconf import DictConfig
from torch import nn

from ddiff.diffusion import Schedule, schedules
from ddiff.interchange.foreign import (
    Foreign,
    attended_sizes,
    config_of,
    parsed,
    read_json_object,
    shaped,
)
from ddiff.interchange.names import DIFFUSERS
from ddiff.interchange.tensors import PICKLED, SAFE
from ddiff.nets.norm import Norm
from ddiff.system.bounds import At, Count, Filled, Positive, Share
from ddiff.system.errors import ConfigError, DdiffError

WEIGHTS = "diffusion_pytorch_model"
INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
VERSION = "0.42.1"  # of diffusers, which the tests compare with
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}  # name -> whether it has attention
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
OBJECTIVES = {"epsilon": "Eps", "sample": "X0", "v_prediction": "V"}
SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "linear"}
MODULATIONS = {"default": "shift", "scale_shift": "scale_shift"}
PADDINGS = {0: "end", 1: "both"}
VARIANCES = {"fixed_small": "posterior", "fixed_small_log": "posterior",
             "fixed_large": "beta", "fixed_large_log": "beta"}  # fmt: skip
Side = Annotated[int, At(least=1)]
Blocks = Annotated[list[str], Filled()]


@dataclass(frozen=True)
class UNet2DModel:
    """Options of diffusers' class of this name that ddiff's U-Net has too; defaults as there.

    An option with one choice exists in ddiff in that form only.
    """

    sample_size: Side | list[Side] | None = None
    in_channels: Count = 3
    out_channels: Count = 3
    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Count | None = None
    freq_shift: Literal[0, 1] = 0
    flip_sin_to_cos: bool = True
    down_block_types: Blocks = ("DownBlock2D", *["AttnDownBlock2D"] * 3)  # pyright: ignore
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    up_block_types: Blocks = (*["AttnUpBlock2D"] * 3, "UpBlock2D")  # pyright: ignore
    block_out_channels: Annotated[list[Count], Filled()] = (224, 448, 672, 896)  # pyright: ignore
    layers_per_block: Count = 2
    mid_block_scale_factor: Annotated[float, At(least=1, most=1)] = 1
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    dropout: Share = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    attention_head_dim: Count | None = 8
    norm_num_groups: Count = 32
    attn_norm_num_groups: Count | None = None
    norm_eps: Positive = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: None = None
    num_train_timesteps: int | None = None


@dataclass(frozen=True)
class Scheduler:
    """Options of diffusers' DDPMScheduler and DDIMScheduler that ddiff has; defaults as there."""

    num_train_timesteps: Count = 1000
    beta_start: Share = 0.0001
    beta_end: Share = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Annotated[list[Share], Filled()] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"] = (
        "fixed_small"
    )
    clip_sample: bool = True
    clip_sample_range: Positive = 1.0
    thresholding: Literal[False] = False
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: Annotated[int, At(least=0)] = 0


SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")


def is_diffusers(folder: Path) -> bool:
    """Return True for a folder as diffusers saves one: a pipeline, or a net alone."""
    return any((folder / name).exists() for name in (INDEX, "unet", CONFIG))


def read_diffusers(folder: Path, shape: list[int] | None = None) -> Foreign:
    """The net in a folder: `unet/` and `scheduler/`, or their files in the folder itself.

    - `shape`: [C, H, W] of a sample, in place of the folder's own size.

    Raises DdiffError with one line for what ddiff cannot express.
    """
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    path = place / CONFIG
    if not path.is_file():
        raise DdiffError(f"{folder} is no folder of diffusers: it lacks unet/{CONFIG}")
    tree = read_json_object(path)
    kind = tree.get("_class_name")
    if kind != "UNet2DModel":
        raise DdiffError(f"{path} is of the class {kind}; ddiff reads UNet2DModel")
    net = _net(parsed(UNet2DModel, tree, path), path, shape)
    scheduler_path = next(
        (p for p in (folder / "scheduler" / SCHEDULER, folder / SCHEDULER) if p.is_file()), None
    )
    if scheduler_path is None:
        raise DdiffError(f"{folder} has no scheduler/{SCHEDULER}, which says the noise levels")
    tree = read_json_object(scheduler_path)
    kind = tree.get("_class_name")
    if kind not in SCHEDULERS:
        raise DdiffError(
            f"{scheduler_path} is of the class {kind}; ddiff reads {' and '.join(SCHEDULERS)}"
        )
    scheduler = parsed(Scheduler, tree, scheduler_path, ignore=("*",))
    cfg = config_of(
        folder.resolve().name,
        net,
        _schedule(scheduler),
        OBJECTIVES[scheduler.prediction_type],
        _solver(scheduler, kind),
        scheduler.clip_sample_range if scheduler.clip_sample else None,
    )
    return Foreign(cfg, weights_in(place), DIFFUSERS)


def says_size(folder: Path) -> bool:
    """Return True for a folder of diffusers whose net has a size of its own."""
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    return is_diffusers(folder) and read_json_object(place / CONFIG).get("sample_size") is not None


def weights_in(place: Path) -> Path:
    """The file of weights in a folder, safetensors first."""
    for ending in (SAFE, *PICKLED):
        if (path := place / f"{WEIGHTS}{ending}").is_file():
            return path
    there = sorted(path.name for path in place.glob(f"{WEIGHTS}*"))
    found = f"; it has {', '.join(there)}" if there else ""
    raise DdiffError(f"{place} has no {WEIGHTS}{SAFE}{found}")


def _net(options: UNet2DModel, path: Path, shape: list[int] | None) -> dict[str, Any]:
    """The options of ddiff's U-Net that is this net."""
    channels = list(options.block_out_channels)
    attended = _attended(options, path)
    if options.in_channels != options.out_channels:
        raise DdiffError(
            f"{path}: out_channels: {options.out_channels} is not in_channels, "
            f"{options.in_channels}; a learned variance has no place in ddiff"
        )
    own, groups = options.attn_norm_num_groups, options.norm_num_groups
    scaled = options.resnet_time_scale_shift == "scale_shift"
    if options.add_attention and own != groups and (own is not None or scaled):
        raise DdiffError(
            f"{path}: attn_norm_num_groups: {own or 'null, no norm before the middle attention'}; "
            f"ddiff has norm_num_groups there, {groups}"
        )
    shape = shaped(options.in_channels, [] if shape else _size(options, path), shape, path)
    if len(shape) != 3:
        raise DdiffError(f"{path}: a UNet2DModel is for pictures; shape is written [C,H,W]")
    return {
        "shape": shape,
        "channels": channels,
        "embedding": {
            "_target_": "ddiff.nets.Sinusoidal",
            "dim": channels[0],
            "flip_sin_to_cos": options.flip_sin_to_cos,
            "freq_shift": options.freq_shift,
            "out_dim": options.time_embedding_dim,
        },
        "num_blocks": options.layers_per_block,
        "attention": attended_sizes(attended, shape),
        "mid_attention": options.add_attention,
        "head_dim": options.attention_head_dim,
        "dropout": options.dropout,
        "modulation": MODULATIONS[options.resnet_time_scale_shift],
        "groups": groups,
        "norm_eps": options.norm_eps,
        "downsample_padding": PADDINGS[options.downsample_padding],
    }


def _size(options: UNet2DModel, path: Path) -> list[int]:
    size = options.sample_size
    if size is None:
        raise DdiffError(f"{path}: sample_size is null; say shape=[{options.in_channels},H,W]")
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2:
        raise DdiffError(f"{path}: sample_size: {size} is not a side, or two")
    return sides


def _attended(options: UNet2DModel, path: Path) -> list[bool]:
    """Answer for each level if it has attention, from the names of the blocks."""
    found = []
    for name, known in (("down_block_types", DOWN), ("up_block_types", UP)):
        types = [one.removeprefix("UNetRes") for one in getattr(options, name)]
        if unknown := [one for one in types if one not in known]:
            raise DdiffError(f"{path}: {name}: ddiff has no {unknown[0]}, only {', '.join(known)}")
        if len(types) != len(options.block_out_channels):
            raise DdiffError(
                f"{path}: {name} names {len(types)} blocks and block_out_channels "
                f"{len(options.block_out_channels)}"
            )
        found.append([known[one] for one in types])
    down, up = found
    if down != up[::-1]:
        raise DdiffError(
            f"{path}: up_block_types: attention is at other levels than in down_block_types, which "
            "ddiff's U-Net cannot do"
        )
    return down


def _schedule(options: Scheduler) -> dict[str, Any]:
    where, T = "ddiff.diffusion.schedules", options.num_train_timesteps
    betas = {"beta_1": options.beta_start, "beta_T": options.beta_end, "rescale": False}
    node: dict[str, Any]
    if options.trained_betas is not None:
        node = {"_target_": f"{where}.from_betas", "betas": list(options.trained_betas)}
    elif options.beta_schedule == "squaredcos_cap_v2":
        node = {"_target_": f"{where}.cosine", "T": T}
    else:
        node = {"_target_": f"{where}.{options.beta_schedule}", "T": T, **betas}
    if options.rescale_betas_zero_snr:
        node = {"_target_": f"{where}.zero_terminal_snr", "schedule": node}
    return node


def _solver(options: Scheduler, kind: str) -> dict[str, Any]:
    spacing = SPACINGS[options.timestep_spacing]
    offset = options.steps_offset if spacing == "leading" else 0
    shared = {"spacing": spacing, "steps_offset": offset}
    if kind == "DDIMScheduler":
        return {"_target_": "ddiff.diffusion.solvers.ddim", "num_steps": 50, "eta": 0.0, **shared}
    variance = VARIANCES[options.variance_type]
    return {"_target_": "ddiff.diffusion.solvers.ddpm", "num_steps": None, "variance": variance,
            **shared}  # fmt: skip


def unet_config(net: nn.Module, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of a net, as UNet2DModel reads it.

    `node`: the options that the net was built with. Raises ConfigError that names the option which
    diffusers cannot express.
    """
    _check_leaves(net, node)
    channels, embedding = list(node["channels"]), node["embedding"]
    _, *sides = node["shape"]
    sizes = [max(sides) // 2**level for level in range(len(channels))]
    attends = [size in (node.get("attention") or ()) for size in sizes]
    (groups,) = {layer.groups for layer in net.modules() if isinstance(layer, Norm)}
    options = UNet2DModel(
        sample_size=sides[0] if len(set(sides)) == 1 else sides,
        in_channels=node["shape"][0],
        time_embedding_dim=embedding.get("out_dim"),
        out_channels=node["shape"][0],
        freq_shift=embedding.get("freq_shift", 1),
        flip_sin_to_cos=embedding.get("flip_sin_to_cos", False),
        down_block_types=[name for a in attends for name, has in DOWN.items() if has == a],
        up_block_types=[name for a in attends[::-1] for name, has in UP.items() if has == a],
        block_out_channels=channels,
        layers_per_block=node.get("num_blocks", 2),
        downsample_padding=_key(PADDINGS, node.get("downsample_padding", "both")),
        dropout=node.get("dropout", 0.0),
        attention_head_dim=node.get("head_dim"),
        norm_num_groups=groups,
        attn_norm_num_groups=groups,
        norm_eps=node.get("norm_eps", 1e-5),
        resnet_time_scale_shift=_key(MODULATIONS, node.get("modulation", "scale_shift")),
        add_attention=node.get("mid_attention", True),
    )
    return {"_class_name": "UNet2DModel", "_diffusers_version": VERSION, **asdict(options)}


def _key(table: Mapping[Any, str], value: str) -> Any:
    return next(key for key, one in table.items() if one == value)


def _check_leaves(net: nn.Module, node: Mapping[str, Any]) -> None:
    """Raise ConfigError for a net that UNet2DModel cannot be."""
    kind = str(node["_target_"]).rpartition(".")[2]
    if node["_target_"] != "ddiff.nets.UNet":
        raise ConfigError(f"net: format=diffusers is for net=unet and its kin, not {kind}")
    embedding = node.get("embedding") or {"_target_": "ddiff.nets.Sinusoidal", "dim": 64}
    groups = {layer.groups for layer in net.modules() if isinstance(layer, Norm)}
    wrong = {
        "net.embedding.shortcuts": embedding.get("shortcuts")
        and "true: UNet2DModel is not told how far a step goes",
        "net.shape": len(node["shape"]) != 3 and "volumes; UNet2DModel is for pictures",
        "net.num_classes": node.get("num_classes") is not None
        and "labels, which the pipelines of UNet2DModel do not pass on; train with module=ddpm",
        "net.conditions": node.get("conditions") is not None
        and "conditions, which the pipelines of UNet2DModel do not pass on; train with module=ddpm",
        "net.patch_size": node.get("patch_size", 1) != 1 and f"{node.get('patch_size')}, not 1",
        "net.input_skip": node.get("input_skip") and "true",
        "net.bounded": node.get("bounded") and "true",
        "net.embedding": embedding["_target_"] != "ddiff.nets.Sinusoidal"
        and "not sinusoidal: UNet2DModel is told the time",
        "net.embedding.dim": embedding["dim"] != node["channels"][0]
        and f"{embedding['dim']}, and UNet2DModel has channels[0] sines: {node['channels'][0]}",
        "net.groups": len(groups) > 1
        and f"group norms of {sorted(groups)} groups, and UNet2DModel has one number",
    }
    for option, why in wrong.items():
        if why:
            raise ConfigError(f"{option}: diffusers cannot express this net: {why}")


def scheduler_config(
    schedule: Schedule, objective: Any, solver: DictConfig, clamp: float | None
) -> dict[str, Any]:
    """Return the scheduler_config.json of these parts.

    Betas are said by name where diffusers has the same schedule, else one by one. Raises
    ConfigError that names the option which diffusers cannot express.
    """
    name = str(solver["_target_"]).rpartition(".")[2]
    if name not in ("ddim", "ddpm"):
        raise ConfigError(
            f"solver: format=diffusers writes a DDIMScheduler or a DDPMScheduler, not {name}; "
            "add solver=ddim or solver=ddpm"
        )
    spacing = solver.get("spacing", "trailing")
    if spacing not in SPACINGS.values():
        known = ", ".join(SPACINGS.values())
        raise ConfigError(f"solver.spacing: diffusers has no {spacing}; choose from {known}")
    named = next((k for k, v in OBJECTIVES.items() if v == type(objective).__name__), None)
    if named is None:
        kind = type(objective).__name__
        raise ConfigError(f"objective: diffusers has no {kind}; it has {', '.join(OBJECTIVES)}")
    if getattr(objective, "data_std", 1) != 1:
        raise ConfigError(f"objective.data_std: diffusers has 1, and not {objective.data_std}")
    found: dict[str, Any] = {
        "num_train_timesteps": schedule.T,
        **_betas(schedule),
        "prediction_type": named,
        "clip_sample": clamp is not None,
        "clip_sample_range": 1.0 if clamp is None else float(clamp),
        "timestep_spacing": _key(SPACINGS, spacing),
        "steps_offset": solver.get("steps_offset", 0),
    }
    if name == "ddpm":
        found["variance_type"] = _key(VARIANCES, solver.get("variance", "posterior"))
        kind = "DDPMScheduler"
    else:
        found["set_alpha_to_one"] = True
        kind = "DDIMScheduler"
    return {"_class_name": kind, "_diffusers_version": VERSION, **found}


def _betas(schedule: Schedule) -> dict[str, Any]:
    """The betas by name, if diffusers has such a schedule."""
    T, abar = schedule.T, schedule.abar
    betas = 1 - abar[1:] / abar[:-1]
    first, last = (float(f"{beta:.12g}") for beta in (betas[0], betas[-1]))  # as they were said
    ends = {"beta_start": first, "beta_end": last}
    cosine = schedules.cosine(T).abar
    known = {
        "linear": torch.linspace(first, last, T, dtype=torch.float64),
        "scaled_linear": torch.linspace(first**0.5, last**0.5, T, dtype=torch.float64) ** 2,
        "squaredcos_cap_v2": 1 - cosine[1:] / cosine[:-1],
    }
    for name, table in known.items():
        if torch.allclose(table, betas, rtol=1e-9, atol=1e-14):
            return {"beta_schedule": name, **(ends if "linear" in name else {})}
    return {"beta_schedule": "linear", "trained_betas": betas.tolist()}

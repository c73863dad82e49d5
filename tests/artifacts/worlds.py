"""Runs without a training: a checkpoint of a small net none of whose layers is zero."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.artifacts.writing import Exported, example, export
from ddiff.build import build_net
from ddiff.config.trees import resolved
from ddiff.sampling.conditions import labels_for
from ddiff.sampling.generation import generation_of, walk
from ddiff.system.checkpoints import save_checkpoint
from tests.support.runs import SHORT, TINY

ATTENTION = ("net.mid_attention=true", "net.head_dim=8")
KINDS = {
    "2D": ("digits_cfg", [1, 8, 8], 10, (*TINY, "guidance.scale=1.5", *ATTENTION)),
    "3D": (
        "voxel_baseline",
        [1, 16, 16, 16],
        None,
        (*TINY, "data.size=16", "net.patch_size=2", "net.bounded=true"),
    ),
    "dit": (
        "digits_cfg",
        [1, 8, 8],
        10,
        ("net=dit_tiny", "net.width=32", "net.depth=2", "net.head_dim=16", *SHORT),
    ),
    "few": ("digits_cfg", [1, 8, 8], 10, (*TINY, "module.shortcuts=0.25")),
    "told": ("digits_text", [1, 8, 8], 10, (*TINY, "guidance.scale=1.5")),
    "classifier": ("classifier", [1, 8, 8], 10, ()),
    "plain": (  # can leave for diffusers
        "digits_ddpm",
        [1, 8, 8],
        None,
        ("net.channels=[8,16]", "net.num_blocks=1", "net.attention=[8]", "net.head_dim=8"),
    ),
}
TOLD = {  # besides the class
    "numbers": {"age": {"mean": 50.0, "std": 20.0, "low": 10.0, "high": 90.0}},
    "length": 12,
    "pictures": {"mask": 1},
    "examples": {"text": ["a three"], "age": [30.0]},
}
Make = Callable[..., Exported]
SOLVERS = ("ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "heun", "unipc")


def make_run(folder: Path, kind: str) -> Path:
    experiment, shape, num_classes, options = KINDS[kind]
    chosen = [f"experiment={experiment}", "precision=fp32", *options]
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = compose("train", chosen)
    cfg.net.shape, cfg.net.num_classes = shape, num_classes
    if kind == "told":
        cfg.net.conditions = TOLD
    cfg = resolved(cfg)
    torch.manual_seed(0)
    net = build_net(cfg.net)
    state: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        state[f"net.{name}"] = value
        state[f"ema.{name}"] = value + 0.05 * torch.randn(value.shape)
    checkpoint = {
        "state_dict": state,
        "global_step": 7,
        "spent": {"seconds": 1.5, "images": 28},
        "ddiff": {"config": OmegaConf.to_container(cfg), "overrides": chosen},
    }
    save_checkpoint(checkpoint, folder / "checkpoints" / "last.ckpt")
    OmegaConf.save(cfg, folder / "config.yaml")
    return folder


def export_of(
    run: Path, name: str, precision: str = "fp32", accelerator: str = "cpu", **options: Any
) -> Exported:
    trained = Trained.load(str(run), options.get("weights", "ema"), accelerator)
    given = {
        "format": {"_target_": f"ddiff.artifacts.{name}"},
        "solver": trained.options.solver,
        "guidance": trained.options.guidance,
        "weights": "ema",
        "dynamic_batch": True,
        "batch_size": 4,
        "out": None,
        "overwrite": False,
    }
    cfg = DictConfig(given | options)
    by_plan = partial(walk, solver=cfg.solver, guidance=cfg.guidance)
    return export(trained, cfg, precision, by_plan)


def samples(trained: Trained, solver: str, size: int = 4) -> Tensor:
    """[size, C, *S] of a few steps, in its own precision."""
    steps = 4 if solver == "few" else 6
    target = {"_target_": f"ddiff.diffusion.solvers.{solver}", "_partial_": True,
              "num_steps": steps}  # fmt: skip
    generation = generation_of(
        trained,
        solver=DictConfig(target),
        guidance=trained.options.guidance,
        precision=trained.options.precision,
        backend=DictConfig({"_target_": "ddiff.backends.Eager"}),
        seed=3,
        clamp=1.0,
    )
    if generation.layout.by_rows:
        y = example(generation.layout, 1000, torch.device("cpu"), size)[2]
    else:
        y = labels_for("auto", size, generation.num_classes)
    return generation.batch(range(size), y)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """dB of the range of what is wanted."""
    rms = (found.double() - wanted.double()).square().mean().sqrt()
    return float(20 * torch.log10((wanted.max() - wanted.min()) / rms))

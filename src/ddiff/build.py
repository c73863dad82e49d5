"""Building of objects from a validated, resolved config."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

import ddiff.config.resolvers  # noqa: F401 (registers what configs call)
from ddiff.backends import Auto, Backend
from ddiff.config.options import Train
from ddiff.config.targets import build, locate
from ddiff.diffusion import Guidance, Plan, Schedule
from ddiff.diffusion.guidance import guidance_from
from ddiff.system.console import say_once
from ddiff.system.errors import ConfigError
from ddiff.system.precision import Precision


def module_class(node: DictConfig) -> Any:
    """The class of a LightningModule."""
    return locate(node["_target_"], ("ddiff.training.modules",))


def check_guidance(options: Train) -> None:
    """Refuses a recipe that guides the samples of a net without labels, before anything is made."""
    if not is_generative(options.module):
        return
    conditional = module_class(options.module).conditional
    guidance = build_guidance(options.guidance)
    guidance.check(conditional, options.sampling.y)
    if not guidance.alone:
        raise ConfigError(
            "guidance=auto guides by a net of a finished training; train with guidance=none, and "
            "give it to ddiff.sample"
        )


def build_net(node: DictConfig) -> nn.Module:
    """The net, its weights channels last: convolutions then run so from end to end."""
    volumes = len(node.shape) == 4
    return build(node).to(memory_format=torch.channels_last_3d if volumes else torch.channels_last)


def build_precision(node: DictConfig, device: torch.device) -> Precision:
    """The precision, decided for this device, with torch set to it.

    A line says, once, what `auto` takes on a GPU and how to change it.
    """
    asked = build(node)
    precision = asked.on(device)
    if asked.dtype == "auto" and device.type == "cuda":
        also = ", with products of float32 in TensorFloat-32" if precision.tf32 else ""
        say_once(
            f"precision=auto: the net computes in {precision.dtype} on this GPU{also}; "
            "precision=fp32 computes in 32 bits"
        )
    precision.prepare()
    return precision


def build_backend(node: DictConfig, device: torch.device) -> Backend:
    """The backend, `auto` decided for this device."""
    backend = build(node)
    return backend.on(device) if isinstance(backend, Auto) else backend


def is_generative(node: DictConfig) -> bool:
    """Return True if a module of this class makes samples."""
    return module_class(node).generative


def build_guidance(node: DictConfig) -> Guidance:
    """The guidance; a function of the user's own is wrapped."""
    return guidance_from(build(node))


def build_plan(node: DictConfig, schedule: Schedule) -> Plan:
    return build(node)(schedule)

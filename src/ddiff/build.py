"""From a validated, resolved config to objects."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

import ddiff.config.resolvers  # noqa: F401 (registers fitted, snr_factor and data_name)
from ddiff.backends import Auto, Backend
from ddiff.config.targets import build, locate
from ddiff.diffusion import Guidance, Plan, Schedule
from ddiff.diffusion.guidance import guidance_from
from ddiff.system.precision import Precision


def module_class(cfg: DictConfig) -> Any:
    """The class of the config's LightningModule."""
    return locate(cfg.module["_target_"], ("ddiff.training.modules",))


def check_guidance(cfg: DictConfig) -> None:
    """Refuses a recipe that guides the samples of a net without labels, before anything is made."""
    if not is_generative(cfg):
        return
    conditional = module_class(cfg).conditional
    build_guidance(cfg).check(1 if conditional else None, cfg.sampling.y)


def build_net(cfg: DictConfig) -> nn.Module:
    """The net, its weights channels last: convolutions then run so from end to end."""
    volumes = len(cfg.net.shape) == 4
    return build(cfg.net).to(
        memory_format=torch.channels_last_3d if volumes else torch.channels_last
    )


def build_precision(cfg: DictConfig, device: torch.device) -> Precision:
    """The precision, decided for this device, with torch set to it."""
    precision = build(cfg.precision).on(device)
    precision.prepare()
    return precision


def build_backend(cfg: DictConfig, device: torch.device) -> Backend:
    """The backend, `auto` decided for this device."""
    backend = build(cfg.backend)
    return backend.on(device) if isinstance(backend, Auto) else backend


def is_generative(cfg: DictConfig) -> bool:
    return module_class(cfg).generative


def build_guidance(cfg: DictConfig) -> Guidance:
    """The guidance; a function of the user's own is wrapped."""
    return guidance_from(build(cfg.guidance))


def build_plan(cfg: DictConfig, schedule: Schedule) -> Plan:
    return build(cfg.solver)(schedule)

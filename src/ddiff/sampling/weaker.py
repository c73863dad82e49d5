"""The net that guides in guidance=auto: weights of the same run, or another run's."""

import torch
from torch import nn

from ddiff.artifacts.trained import Trained
from ddiff.backends import device_of
from ddiff.diffusion.guidance import Weaker
from ddiff.system.errors import ConfigError


def weaker_net(guidance: Weaker, trained: Trained, shortcuts: bool) -> nn.Module:
    """The weaker net, on the device of the trained one. Raises ConfigError where they do not fit:
    both must predict the same thing at the same noise levels, and know `shortcuts` if the plan has
    them."""
    run = guidance.run or str(trained.run_dir)
    device = device_of(trained.net)
    found = Trained.load(run, guidance.of, device.type, snapshot=guidance.step)
    same = type(found.objective) is type(trained.objective) and torch.equal(
        found.schedule.abar, trained.schedule.abar
    )
    if not same or tuple(found.options.net.shape) != tuple(trained.options.net.shape):
        raise ConfigError(
            f"guidance.run: {run} has another shape, schedule or objective than the run it guides"
        )
    if shortcuts and not found.options.module.get("shortcuts"):
        raise ConfigError(f"guidance.run: {run} has learned no shortcuts, which solver=few takes")
    if found.digest == trained.digest:
        raise ConfigError(
            f"guidance.of: {guidance.of} are the very weights that are sampled from; choose others"
        )
    return found.net

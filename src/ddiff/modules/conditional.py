"""Class-conditional diffusion for classifier-free guidance."""

from typing import Any

import torch
from torch import Tensor

from ddiff.bounds import Share
from ddiff.diffusion import NO_LABEL
from ddiff.errors import ConfigError
from ddiff.modules.ddpm import DDPM


class ConditionalDDPM(DDPM):
    """Trains with labels, each replaced by "no label" with probability `p_uncond`."""

    conditional = True

    def __init__(self, p_uncond: Share = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= p_uncond <= 1:
            raise ConfigError(f"module.p_uncond must lie in 0..1, not {p_uncond}")
        self.p_uncond = p_uncond

    def condition(self, y: Tensor | None, g: torch.Generator) -> Tensor | None:
        assert y is not None
        drop = torch.rand(y.shape, generator=g, device=y.device) < self.p_uncond
        return torch.where(drop, NO_LABEL, y)

"""Class-conditional diffusion for classifier-free guidance."""

from typing import Any

from ddiff.system.bounds import Share
from ddiff.system.errors import ConfigError
from ddiff.training.modules.ddpm import DDPM


class ConditionalDDPM(DDPM):
    """Trains with labels, each replaced by "no label" with probability `p_uncond`."""

    conditional = True

    def __init__(self, p_uncond: Share = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= p_uncond <= 1:
            raise ConfigError(f"module.p_uncond must lie in 0..1, not {p_uncond}")
        self.p_uncond = p_uncond

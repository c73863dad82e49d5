"""The interface of every way to choose training timesteps."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class TimestepSampler(nn.Module, ABC):
    """Draws t in 1..T. State lives in buffers, so it is in every checkpoint and on the device.

    `unbiased` says whether the weights restore the uniform objective E_t~U[loss(t)], or whether
    the sampler changes the objective. No method may synchronise with the host.
    """

    unbiased: ClassVar[bool]

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    @abstractmethod
    def sample(
        self, batch_size: int, generator: torch.Generator, rank: int = 0, world_size: int = 1
    ) -> tuple[Tensor, Tensor]:
        """t [B] int64 and a loss weight [B] float32, on the generator's device."""

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Is told the unweighted loss of every sample [B] after each step."""

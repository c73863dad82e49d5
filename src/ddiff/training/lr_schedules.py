"""Learning-rate schedules, functions of the optimiser step alone."""

import math
from typing import Annotated

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ddiff.system.bounds import At, Count, Share

Warmup = Annotated[int, At(least=0)]


def warmup_cosine(
    optimizer: Optimizer, total_steps: Count, warmup_steps: Warmup = 100, final: Share = 0.0
) -> LambdaLR:
    """Linear to full in `warmup_steps`, then half a cosine down to `final` at `total_steps`."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        u = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final + (1 - final) * (1 + math.cos(math.pi * u)) / 2

    return LambdaLR(optimizer, factor)


def warmup_constant(optimizer: Optimizer, warmup_steps: Warmup = 100) -> LambdaLR:
    """Linear to full in `warmup_steps`, then full."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))

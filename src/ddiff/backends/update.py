"""What follows a backward pass: clipping, the optimiser's step, averaged weights."""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddiff.kernels.adam import adam, grad_norm


class Update:
    """`clip`, then `optimizer.step`, then `average`; `decay` is that of the averages."""

    def __init__(self, optimizer: Optimizer, net: nn.Module, ema: nn.Module) -> None:
        self.optimizer = optimizer
        self.parameters: list[Tensor] = list(net.parameters())
        self.averages: list[Tensor] = list(ema.parameters())
        self.decay = 0.0

    def clip(self, max_norm: float | None) -> Tensor:
        """The gradient's norm []; the step will see a gradient of at most `max_norm`."""
        norm = torch.nn.utils.get_total_norm(self.gradients())
        if max_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
        return norm

    def average(self) -> None:
        """averages = decay averages + (1 - decay) parameters"""
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                self.averages, self.parameters, 1 - self.decay
            )

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]


class FusedUpdate(Update):
    """Clips, steps and averages in one pass over memory, inside `optimizer.step`."""

    def __init__(self, optimizer: torch.optim.Adam, net: nn.Module, ema: nn.Module) -> None:
        super().__init__(FusedAdam(optimizer, self), net, ema)
        self.average_of = dict(zip(self.parameters, self.averages, strict=True))
        self.limit: tuple[Tensor | None, float] = None, 0.0  # this gradient's norm, and the largest

    @staticmethod
    def fits(optimizer: Optimizer) -> TypeGuard[torch.optim.Adam]:
        """Whether it does what this optimiser does."""
        unknown = ("amsgrad", "maximize", "capturable", "differentiable")
        return type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and all(
            group["fused"] and not any(group[option] for option in unknown)
            for group in optimizer.param_groups
        )

    def clip(self, max_norm: float | None) -> Tensor:
        norm = grad_norm(self.gradients())
        self.limit = (norm, max_norm) if max_norm else (None, 0.0)
        return norm

    def average(self) -> None:
        """It is done."""

    def step(self, group: dict[str, Any], lists: list[list[Tensor]]) -> None:
        """lists: parameters, their gradients, both moments, nothing, numbers of this step."""
        parameters, grads, firsts, seconds, _, steps = lists
        averages = [self.average_of[p] for p in parameters]
        beta1, beta2 = group["betas"]
        norm, max_norm = self.limit
        found_inf = getattr(self.optimizer, "found_inf", None)  # set by a gradient scaler
        assert getattr(self.optimizer, "grad_scale", None) is None, "it has not unscaled"
        adam(
            parameters,
            grads,
            firsts,
            seconds,
            averages,
            steps,
            norm,
            found_inf,
            max_norm,
            group["lr"],
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            self.decay,
        )
        if found_inf is not None:
            torch._foreach_sub_(steps, [found_inf] * len(steps))  # pyright: ignore
        for p in group["params"]:
            if p.grad is None:
                self.average_of[p].lerp_(p, 1 - self.decay)


class FusedAdam(torch.optim.Adam):
    """The Adam or AdamW that `like` is, and its state, with the step of `update`."""

    def __init__(self, like: torch.optim.Adam, update: FusedUpdate) -> None:
        super().__init__(like.param_groups, **like.defaults)
        self.update = update

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lists: list[list[Tensor]] = [[] for _ in range(6)]
            self._init_group(group, *lists)
            torch._foreach_add_(lists[-1], 1)  # pyright: ignore[reportPrivateImportUsage]
            self.update.step(group, lists)
        return loss

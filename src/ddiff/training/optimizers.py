"""Optimisers beside those of torch.optim."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from ddiff.system.bounds import At, NotNegative
from ddiff.system.errors import ConfigError

Beta = Annotated[float, At(least=0, below=1)]
ITERATION = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: singular values end in 0.7 .. 1.2
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Convolutions' weights move along their orthogonalised momentum, all else by AdamW.

    Jordan et al. 2024, with steps as long as AdamW's (Liu et al. 2025): `lr` and `weight_decay`
    mean the same for both halves, and what suits AdamW is a place to begin.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: NotNegative = 1e-3,
        momentum: Beta = 0.95,
        betas: tuple[Beta, Beta] = (0.9, 0.99),
        eps: NotNegative = 1e-8,
        weight_decay: NotNegative = 0.0,
    ) -> None:
        if not (min(lr, eps, weight_decay) >= 0 and all(0 <= m < 1 for m in (momentum, *betas))):
            raise ConfigError(
                f"optimizer: none of lr {lr}, eps {eps}, weight_decay {weight_decay} may be below "
                f"0, and momentum {momentum} and betas {[*betas]} lie in 0 <= m < 1"
            )
        options = {"momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, **options})
        if not any(p.ndim > 2 for group in self.param_groups for p in group["params"]):
            raise ConfigError(
                "optimizer: muon is for convolutions, and this net has none; use optimizer=adamw"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: defaultdict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            rest = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.ndim > 2:
                    alike[len(p), p[0].numel()].append(p)
                else:
                    rest.append(p)
            for parameters in alike.values():
                self._orthogonal_step(parameters, group)
            if rest:
                self._adam_step(rest, group)
        return loss

    def _orthogonal_step(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update convolutions whose weights are matrices [outputs, inputs x kernel] of one size."""
        directions = []
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg"].lerp_(p.grad, 1 - group["momentum"])
            directions.append(p.grad.lerp(state["exp_avg"], group["momentum"]).flatten(1))
        steps = orthogonal(torch.stack(directions))
        length = 0.2 * max(steps.shape[1:]) ** 0.5  # a root mean square of 0.2, as AdamW's
        for p, step in zip(parameters, steps, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(step.view(p.shape), alpha=-group["lr"] * length)

    def _adam_step(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p].update(zeros, step=torch.zeros((), device=p.device))
        states = [self.state[p] for p in parameters]
        beta1, beta2 = group["betas"]
        adam(
            list[Tensor](parameters),
            [p.grad for p in parameters if p.grad is not None],
            *([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq")),
            max_exp_avg_sqs=[],
            state_steps=[s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            decoupled_weight_decay=True,
        )


def orthogonal(matrices: Tensor) -> Tensor:
    """U V^T of every U S V^T in [K, rows, columns], but with singular values in 0.7 .. 1.2.

    Newton and Schulz's iteration. As every factor is a polynomial of the small side's Gram
    matrix, it runs there, and the long side is multiplied twice only.
    """
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
    a, b, c = ITERATION
    gram = x @ x.mT
    unit = torch.eye(len(gram[0]), device=x.device, dtype=x.dtype)
    product = unit.expand_as(gram)
    for _ in range(ITERATIONS):
        factor = a * unit + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT

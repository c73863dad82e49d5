"""What `python -m ddiff.kernels` checks and times."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..case import Case
from . import adam, grad_norm, grad_norm_reference, reference

LARGE = [(256, 256, 3, 3)] * 54 + [(256,)] * 200  # about the CIFAR net of 35.7 M
SMALL = [(64, 64, 3, 3)] * 8 + [(64,)] * 30
OPTIONS = (1.0, 1e-4, 0.9, 0.999, 1e-8, 0.01, True, 0.99)


def cases(device: str) -> list[Case]:
    return [
        case
        for name, shapes in (("32 M in 254 tensors", LARGE), ("0.3 M in 38 tensors", SMALL))
        for case in (_norm_case(name, device, shapes), _step_case(name, device, shapes))
    ]


def _draw(device: str, shapes: Sequence[tuple[int, ...]], seed: int) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(seed)
    return [torch.randn(shape, generator=generator, device=device) for shape in shapes]


def _norm_case(name: str, device: str, shapes: Sequence[tuple[int, ...]]) -> Case:
    grads = _draw(device, shapes, 1)
    total = sum(g.numel() for g in grads)

    def eager() -> Tensor:
        return torch.nn.utils.get_total_norm(grads)

    return Case(
        f"norm, {name}",
        lambda: (grad_norm(grads),),
        lambda: (grad_norm_reference(grads),),
        eager,
        4 * total,
        1e-5 * total**0.5,
    )


def _step_case(name: str, device: str, shapes: Sequence[tuple[int, ...]]) -> Case:
    """Adam's step, clipped and averaged; eager is torch's own fused one."""
    grads = _draw(device, shapes, 1)
    norm = grad_norm_reference(grads)

    def state() -> list[list[Tensor]]:
        p, average = _draw(device, shapes, 2), _draw(device, shapes, 3)
        moments = [[torch.zeros_like(x) for x in p] for _ in range(2)]
        return [p, grads, *moments, average, [torch.ones((), device=device) for _ in p]]

    first, second = state(), state()

    def run(step: Callable[..., None], lists: list[list[Tensor]]) -> Sequence[Tensor]:
        step(*lists, norm, None, *OPTIONS)
        p, _, *rest, _ = lists
        return [x for tensors in (p, *rest) for x in tensors]

    return Case(
        f"step, {name}",
        lambda: run(adam, first),
        lambda: run(reference, second),
        _eager(device, shapes, grads),
        36 * sum(g.numel() for g in grads),
        5e-6,
    )


def _eager(
    device: str, shapes: Sequence[tuple[int, ...]], grads: list[Tensor]
) -> Callable[[], object]:
    parameters = [p.requires_grad_() for p in _draw(device, shapes, 2)]
    averages = _draw(device, shapes, 3)
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g.clone()
    _, lr, beta1, beta2, eps, weight_decay, _, decay = OPTIONS
    optimizer = torch.optim.AdamW(parameters, lr, (beta1, beta2), eps, weight_decay, fused=True)
    norm = torch.nn.utils.get_total_norm(grads)

    def eager() -> None:
        torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - decay)  # pyright: ignore

    return eager

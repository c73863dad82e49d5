"""An artifact against the net it came from."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ddiff.artifacts.door import Inputs
from ddiff.diffusion.guidance import NO_LABEL
from ddiff.system.errors import DdiffError

# dB, of the range of the net's predictions: an artifact below it is refused
LEAST_PSNR = {"fp32": 100.0, "fp16": 45.0, "bf16": 30.0, "int8": 25.0, "fp8": 25.0}
BEST_PSNR = 200.0  # said where nothing differs
ABOUT = "noise at t = 1, T / 4, T / 2 and T"


def example(
    shape: tuple[int, ...],
    T: int,
    num_classes: int | None,
    device: torch.device,
    size: int,
    first: int = 0,
) -> Inputs:
    """Noise; from row to row another time, and another label: none, the first, the last."""
    x = torch.randn(size, *shape, generator=torch.Generator().manual_seed(first)).to(device)
    row = torch.arange(first, first + size, device=device)
    t = torch.tensor([1, T, (T + 1) // 2, (T + 3) // 4], device=device)[row % 4] - 1
    if num_classes is None:
        return x, t
    return x, t, torch.tensor([NO_LABEL, 0, num_classes - 1], device=device)[row % 3]


@torch.no_grad()
def check(
    run: Callable[..., Tensor], net: nn.Module, cases: Iterable[Inputs], precision: str
) -> dict[str, Any]:
    """How near `run` is to the float32 net; DdiffError where not near enough."""
    pairs = [(run(*inputs).double(), net(*inputs).double()) for inputs in cases]
    found = torch.cat([a.flatten() for a, _ in pairs])
    wanted = torch.cat([b.flatten() for _, b in pairs])
    error = (found - wanted).abs()
    rms, span = float(error.square().mean().sqrt()), float(wanted.max() - wanted.min())
    psnr = BEST_PSNR if rms == 0 else 20 * math.log10(max(span, 1e-12) / rms)
    if not psnr >= LEAST_PSNR[precision]:  # nor NaN
        raise DdiffError(
            f"the artifact is not the net: PSNR {psnr:.1f} dB and largest error "
            f"{float(error.max()):.3g} in {precision}, where {LEAST_PSNR[precision]:g} dB is the "
            "least; nothing was written"
        )
    return {
        "psnr": min(psnr, BEST_PSNR),
        "max_error": float(error.max()),
        "least_psnr": LEAST_PSNR[precision],
        "inputs": ABOUT,
        "batches": sorted({len(found) for found, _ in pairs}),
    }

"""Number formats: the one place that decides them, for training and for sampling.

Parameters, optimiser state, noise, loss and the solver's state stay float32; only the net runs
under autocast.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Net = Callable[..., Tensor]


@dataclass(frozen=True)
class Precision:
    """`dtype` auto picks what is fast on the device at hand; `tf32` rounds float32 products."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tf32: bool = False

    def on(self, device: torch.device) -> "Precision":
        """This precision with `auto` decided for `device`."""
        if self.dtype != "auto":
            return self
        if device.type == "cuda":
            modern = torch.cuda.get_device_capability(device) >= (8, 0)
            return Precision("bfloat16" if modern else "float16", tf32=modern)
        if device.type == "cpu" and _cpu_has_bf16():
            return replace(self, dtype="bfloat16")
        return replace(self, dtype="float32")

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context the net runs in."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.dtype))

    def with_autocast(self, net: Net, device: torch.device) -> Net:
        """The net (x, t, y) -> prediction, run in that context."""

        def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            with self.autocast(device):
                return net(x, t, y)

        return predict

    def prepare(self) -> None:
        """Sets torch's process-wide switch for tf32."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        if torch.cuda.is_available():
            torch.backends.cudnn.allow_tf32 = self.tf32

    @property
    def needs_scaling(self) -> bool:
        """Gradients of float16 underflow unless the loss is scaled up before the backward pass."""
        return self.dtype == "float16"


def _cpu_has_bf16() -> bool:
    """Native bf16 products: AMX tiles (about 10 times fp32) or AVX-512 BF16 (about twice)."""
    probes: tuple[Callable[[], bool], ...] = (
        torch.cpu._is_amx_tile_supported,
        torch.cpu._is_avx512_bf16_supported,
    )
    return any(probe() for probe in probes)

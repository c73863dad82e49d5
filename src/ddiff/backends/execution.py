"""The interface of backends: each turns a net into an execution for sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ddiff.system.errors import ConfigError
from ddiff.system.precision import Precision

# (x [B, C, *S] float32, t - 1 [B], y [B] or None) -> pred [B, C, *S]
Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Execution:
    """`predict` runs the net. `solver_step` is an operation over fixed buffers, of the signature of
    its reference; None: the equations as `diffusion.solve` writes them.

    graph: a whole step is captured in a CUDA graph and replayed; "try": where that can be done.
    static: another batch size costs a compilation or is impossible, so that every batch is filled
    up to one size.
    """

    predict: Predict
    solver_step: Callable[..., None] | None = None
    graph: bool | Literal["try"] = False
    static: bool = False


class Backend(Protocol):
    """A way to execute the net and the solver's step.

    `add_noise` is an operation for the noise of training, or None where torch draws it.
    """

    @property
    def name(self) -> str: ...

    @property
    def add_noise(self) -> Callable[..., tuple[Tensor, Tensor]] | None: ...

    def prepare(self, net: nn.Module) -> None:
        """Change, for training, how `net` executes: in place, but never its keys."""
        ...

    def execution(self, net: nn.Module, precision: Precision) -> Execution:
        """Return an execution of `net` for sampling; `net` itself does not change."""
        ...


def device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def graphs(wanted: bool | None, device: torch.device) -> bool:
    """Return True if steps are captured in a CUDA graph; `wanted` None: if there is a GPU."""
    if wanted and device.type != "cuda":
        raise ConfigError(f"backend.graph: a CUDA graph needs a GPU, and this runs on {device}")
    return device.type == "cuda" if wanted is None else wanted

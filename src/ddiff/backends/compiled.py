"""torch.compile."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ddiff.backends.execution import Execution, device_of
from ddiff.kernels.solver_step import reference
from ddiff.nets.blocks import Block
from ddiff.nets.dit import TransformerBlock
from ddiff.system.precision import Precision


@dataclass(frozen=True)
class Compiled:
    """`dynamic` None lets torch decide after the second batch size; False recompiles for each.

    regional: blocks one by one: those alike share their code, so that a cold start is shorter.
    freeze: on CPUs, weights become constants laid out for the convolutions (sampling only).
    """

    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = (
        "default"
    )
    dynamic: bool | None = None
    fullgraph: bool = False
    regional: bool = False
    freeze: bool = True
    name = "compiled"
    add_noise = None

    def prepare(self, net: nn.Module) -> None:
        self._compile(net, mode=self.mode)

    def execution(self, net: nn.Module, precision: Precision) -> Execution:
        device = device_of(net)
        net = copy.deepcopy(net)
        frozen = self.freeze and device.type == "cpu" and self.mode == "default"
        self._compile(net, **({"options": {"freezing": True}} if frozen else {"mode": self.mode}))
        step = torch.compile(reference, mode=self.mode, dynamic=False)
        return Execution(precision.with_autocast(net, device), step, static=True)

    def _compile(self, net: nn.Module, **how: Any) -> None:
        blocks = [part for part in net.modules() if isinstance(part, Block | TransformerBlock)]
        parts = blocks if self.regional and blocks else [net]
        limits = torch._dynamo.config  # pyright: ignore[reportPrivateImportUsage]
        limits.recompile_limit = max(limits.recompile_limit, 4 * len(parts))
        for part in parts:
            part.compile(dynamic=self.dynamic, fullgraph=self.fullgraph, **how)

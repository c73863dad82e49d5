"""The net as it is."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ddiff.backends.execution import Execution, device_of, graphs
from ddiff.system.precision import Precision


@dataclass(frozen=True)
class Eager:
    """`graph` captures a sampling step in a CUDA graph; "try": where that can be done."""

    graph: bool | Literal["try"] = False
    name = "eager"
    add_noise = None

    def prepare(self, net: nn.Module) -> None:
        """Nothing to do."""

    def execution(self, net: nn.Module, precision: Precision) -> Execution:
        device = device_of(net)
        return Execution(
            precision.with_autocast(net, device),
            graph=self.graph if self.graph == "try" else graphs(self.graph, device),
            static=bool(self.graph) or getattr(net, "batch", None) is not None,
        )

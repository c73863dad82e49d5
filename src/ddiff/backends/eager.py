"""The net as it is."""

from dataclasses import dataclass

from torch import nn

from ddiff.backends.execution import Execution, device_of, graphs
from ddiff.system.precision import Precision


@dataclass(frozen=True)
class Eager:
    """`graph` captures a sampling step in a CUDA graph."""

    graph: bool = False
    name = "eager"
    add_noise = None

    def prepare(self, net: nn.Module) -> None:
        """Nothing to do."""

    def execution(self, net: nn.Module, precision: Precision) -> Execution:
        device = device_of(net)
        return Execution(
            precision.with_autocast(net, device),
            graph=graphs(self.graph, device),
            static=self.graph or getattr(net, "batch", None) is not None,
        )

"""The net as it is."""

from dataclasses import dataclass

from torch import nn

from ddiff.backends.execution import Execution, at_the_door, device_of, graphs
from ddiff.backends.update import Update
from ddiff.precision import Precision


@dataclass(frozen=True)
class Eager:
    """`graph` captures a sampling step in a CUDA graph."""

    graph: bool = False
    name = "eager"
    add_noise = None
    update = Update

    def prepare(self, net: nn.Module) -> None:
        """Nothing to do."""

    def execution(self, net: nn.Module, precision: Precision) -> Execution:
        device = device_of(net)
        return Execution(
            at_the_door(net, precision, device),
            graph=graphs(self.graph, device),
            static=self.graph or getattr(net, "batch", None) is not None,
        )

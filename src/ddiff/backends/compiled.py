"""torch.compile, in place: state-dict keys stay what they are."""

from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Compiled:
    """`dynamic` None lets torch decide after the second batch size; False recompiles for each."""

    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = (
        "default"
    )
    dynamic: bool | None = None
    fullgraph: bool = False

    def prepare(self, net: nn.Module) -> None:
        net.compile(mode=self.mode, dynamic=self.dynamic, fullgraph=self.fullgraph)

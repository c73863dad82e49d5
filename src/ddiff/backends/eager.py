"""The net as it is."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Eager:
    """A backend has one method: `prepare` changes how a net executes, in place, never its keys."""

    def prepare(self, net: nn.Module) -> None:
        """Nothing to do."""

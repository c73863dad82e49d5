"""The parts of a run that act in its steps: built from the config, and put in order."""

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any

from lightning.pytorch import Callback
from omegaconf import DictConfig

from ddiff.config.targets import build_asking


class When(IntEnum):
    """The phase of a step in which a callback acts. A class says its own in `when`."""

    START = 0  # writes the run's first files
    CHECK = 1  # looks whether the loss is a number
    MEASURE = 2  # measures the step: the machine, the timesteps
    END = 3  # stops the clock of the step; what follows are pauses
    PAUSE = 4  # draws samples, evaluates; callbacks of the user's own
    SHOW = 5  # lays out what was logged
    SAVE = 6  # saves the states of all before it
    RESUME = 7  # starts the clock again


def build_callbacks(
    nodes: DictConfig | None, offered: Mapping[str, Any], generative: bool
) -> Iterator[Callback]:
    """The callbacks of a config, each given what it asks for of what is offered.

    null leaves one out, and so does a module that makes no samples for those whose class says
    `generative = True`.
    """
    for node in (nodes or {}).values():
        if node:
            callback = build_asking("callbacks", node, offered)
            if generative or not getattr(callback, "generative", False):
                yield callback


def ordered(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks by their phase, and within a phase as they were given."""
    return sorted(callbacks, key=lambda callback: getattr(callback, "when", When.PAUSE))

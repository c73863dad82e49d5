"""The order of callbacks in a step."""

from collections.abc import Iterable
from enum import IntEnum

from lightning.pytorch import Callback


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


def ordered(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks by their phase, and within a phase as they were given."""
    return sorted(callbacks, key=lambda callback: getattr(callback, "when", When.PAUSE))

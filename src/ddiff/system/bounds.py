"""Bounds of an option, which stand beside its type: `width: Annotated[int, At(least=1)]`.

`ddiff.config.validation` reads them from signatures before anything is built.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol


class Bound(Protocol):
    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a value of the right type, in words, or None."""
        ...


@dataclass(frozen=True)
class At:
    """The range of a number: `least` and `most` belong to it, `above` and `below` do not."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        if self.least is not None and value < self.least:
            return f"{value} is less than {self.least}"
        if self.most is not None and value > self.most:
            return f"{value} is more than {self.most}"
        if self.above is not None and value <= self.above:
            return f"{value} is not above {self.above}"
        if self.below is not None and value >= self.below:
            return f"{value} is not below {self.below}"
        return None


@dataclass(frozen=True)
class Filled:
    """A text or a list that is not empty."""

    def problem(self, value: Any) -> str | None:
        if isinstance(value, str | Sequence) and not len(value):
            return "is empty"
        return None


@dataclass(frozen=True)
class Like:
    """A text of a pattern, which `example` shows."""

    pattern: str
    example: str

    def problem(self, value: Any) -> str | None:
        fits = re.fullmatch(self.pattern, value)
        return None if fits else f"{value!r} is not written like {self.example}"


Count = Annotated[int, At(least=1)]
Share = Annotated[float, At(least=0, most=1)]
NotNegative = Annotated[float, At(least=0)]
Positive = Annotated[float, At(above=0)]
# of averaged weights, as a share of the training; an average of all steps alike has 0.289
LONGEST_AVERAGE = 0.28
AverageLength = Annotated[float, At(above=0, most=LONGEST_AVERAGE)]
Seed = Annotated[int, At(least=0, most=2**63 - 1)]

"""What is measured, against what, and by which features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ddiff.data.base import Data
from ddiff.metrics.features import Extractor, Features
from ddiff.metrics.figures import Figure, Omitted
from ddiff.metrics.samples import Stack
from ddiff.system.errors import DdiffError


@dataclass(frozen=True, eq=False)
class Case:
    """`train` is what the model learned from, `held_out` what it never saw; of a stranger's
    reference there is only the latter. `paired`: sample i belongs to held_out i."""

    samples: Stack
    train: Stack | None
    held_out: Stack
    make_extractor: Callable[[], Extractor]
    data: Data | None = None  # whose law may be known
    paired: bool = False
    cache: Path | None = None  # of the features of references
    seed: int = 0

    @property
    def reference(self) -> Stack:
        """What distributions are compared with: the training set, as is custom."""
        return self.train or self.held_out

    @property
    def volumes(self) -> bool:
        return len(self.samples.shape) == 4

    @property
    def y(self) -> Tensor | None:
        """What the samples were asked to be, [N]."""
        return self.samples.labels

    @cached_property
    def extractor(self) -> Extractor:
        return self.make_extractor()

    @cached_property
    def no_features(self) -> str | None:
        """Why there are none; None: there are."""
        try:
            _ = self.extractor
        except DdiffError as error:
            return str(error)
        return None

    @cached_property
    def features(self) -> Features:
        return Features.of(self.samples, self.extractor)

    @cached_property
    def reference_features(self) -> Features:
        return Features.cached(self.reference, self.extractor, self.cache)


class Metric(Protocol):
    """One measurement; `metrics=` is a list of them."""

    def obstacle(self, case: Case) -> str | None:
        """Why this case cannot be measured; None: it can."""
        ...

    def __call__(self, case: Case) -> Sequence[Figure | Omitted]: ...

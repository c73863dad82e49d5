"""From a trained net to samples, keyed by (seed, sample index).

The noise of sample 17 has the same bits in a batch of 1 and of 64, on one rank and on eight. The
sample is the same up to the rounding of the net's arithmetic, which may depend on the batch's size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ddiff.backends import Backend, Eager, Execution, Stepper, Work, device_of
from ddiff.diffusion import ClassifierFree, Objective, Plan
from ddiff.errors import ConfigError
from ddiff.precision import Precision
from ddiff.profiling import phase, step
from ddiff.random import key


@dataclass(frozen=True, eq=False)
class Generation:
    """Everything that turns noise into samples."""

    net: nn.Module
    shape: tuple[int, ...]  # [C, *S]
    num_classes: int | None
    objective: Objective
    plan: Plan
    guidance: ClassifierFree
    precision: Precision
    seed: int
    clamp: float | None = 1.0
    backend: Backend = field(default_factory=Eager)

    def __post_init__(self) -> None:
        self.guidance.require_labels(self.num_classes)

    def batches(
        self,
        num_samples: int,
        batch_size: int,
        y: Tensor | None = None,
        on_step: Callable[[int], None] = lambda samples: None,
    ) -> Iterator[Tensor]:
        """Samples 0 .. num_samples - 1 in order, [<= batch_size, C, *S] at a time. Another
        `batch_size` changes a sample by rounding only.

        `y` holds one label a sample. `on_step(samples)` is told of every solver step.
        """
        for first in range(0, num_samples, batch_size):
            wanted = min(batch_size, num_samples - first)
            size = batch_size if self.execution.static else wanted
            labels = None if y is None else y[first : first + wanted]
            if labels is not None and wanted < size:  # one batch size for all
                labels = torch.cat([labels, labels[-1:].expand(size - wanted)])
            indices = range(first, first + size)
            yield self.batch(indices, labels, lambda _, n=wanted: on_step(n))[:wanted]

    def batch(
        self,
        indices: Sequence[int],
        y: Tensor | None = None,
        on_step: Callable[[int], None] = lambda samples: None,
    ) -> Tensor:
        """The samples with these indices, float32 [B, C, *S] on the net's device."""
        was_training = self.net.training
        self.net.eval()
        stepper = self._stepper(len(indices), y is not None)
        with phase("start"):
            stepper.start(indices, y)
        for _ in range(len(self.plan)):
            with step():
                stepper.advance()
                with phase("logging"):
                    on_step(len(indices))
        self.net.train(was_training)
        return stepper.x.clone()

    @cached_property
    def execution(self) -> Execution:
        return self.backend.execution(self.net, self.precision)

    @cached_property
    def _steppers(self) -> dict[tuple[int, bool], Stepper]:
        return {}

    def _stepper(self, size: int, labelled: bool) -> Stepper:
        if (size, labelled) not in self._steppers:
            noise = key(self.seed, "sample")
            scale = self.guidance.scale
            work = Work(self.plan, self.objective, self.shape, scale, self.clamp, noise)
            device = device_of(self.net)
            self._steppers[size, labelled] = Stepper(self.execution, work, size, labelled, device)
        return self._steppers[size, labelled]


def labels_for(
    wanted: str | int | Sequence[int] | None, num_samples: int, num_classes: int | None
) -> Tensor | None:
    """Labels [num_samples] from the option `y`: one label, a list to repeat, `each` (equal shares
    in order, so that a square grid has a class a row), `none`, or `auto` (`each` where there are
    classes)."""
    if wanted == "auto":
        wanted = None if num_classes is None else "each"
    if wanted is None or wanted == "none":
        return None
    if num_classes is None:
        raise ConfigError("y: this run was trained without labels; leave y out")
    if wanted == "each":
        return torch.arange(num_samples) * num_classes // num_samples
    labels = list(wanted) if isinstance(wanted, Sequence) else [wanted]
    wrong = [y for y in labels if type(y) is not int or not 0 <= y < num_classes]
    if wrong or not labels:
        raise ConfigError(
            f"y: {wanted!r} is not a label; choose from 0..{num_classes - 1}, a list, "
            "each, none or auto"
        )
    return torch.tensor(labels).repeat(-(-num_samples // len(labels)))[:num_samples]


def row_length(y: Tensor | None) -> int | None:
    """Samples a class, where all labels come in equal shares in order: a picture's row each."""
    if y is None:
        return None
    shares = y.unique_consecutive(return_counts=True)[1].tolist()
    return shares[0] if len(shares) > 1 and shares[0] > 1 and len(set(shares)) == 1 else None

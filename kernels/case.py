"""One call of one operation, as `python -m ddiff.kernels` checks and times it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Case:
    name: str  # "64 x 1 x 64^3, fp32"
    native: Callable[[], Sequence[Tensor]]  # runs the kernel, returns its outputs
    reference: Callable[[], Sequence[Tensor]]  # the torch reference on the same inputs
    eager: Callable[[], object]  # what one writes in torch today: the baseline of the speed-up
    bytes: int  # that must move: each input read once, each output written once
    tolerance: float  # largest |difference| allowed between native and reference

"""Counting tensors: every storage once, from the moment it is seen to its end."""

import weakref
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REST = "activations"  # whatever nobody named: outputs that wait for the backward pass, temporaries


@dataclass(frozen=True)
class Peak:
    """The most bytes that were alive at one moment, and what they were."""

    phase: str
    total: int
    parts: dict[str, int]


class Tally(TorchDispatchMode):
    """Record of the memory of tensors: while it is on, it sees what every operation returns.

    It works in forward and backward, on real and fake tensors. Memory that an operation takes and
    frees inside itself is not seen.

    `granule`: the allocator hands out multiples of so many bytes (512 on CUDA).
    """

    def __init__(self, granule: int = 1) -> None:
        super().__init__()
        self.granule = granule
        self.sizes: list[int] = []  # by number of the storage
        self.kinds: dict[int, str] = {}
        self.events: list[int] = []  # n: storage n is born; ~n: it dies
        self.phases: list[tuple[int, str]] = []  # since which event
        self._alive: dict[int, tuple[weakref.ref, int]] = {}  # id of the storage -> its number

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._number(value)
        return result

    def name(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Says what these are, in what was counted and in what will be."""
        for tensor in tensors:
            self.kinds[self._number(tensor)] = kind

    def begin(self, phase: str) -> None:
        self.phases.append((len(self.events), phase))

    def peaks(self) -> list[Peak]:
        """One for each phase."""
        ends = [start for start, _ in self.phases[1:]] + [len(self.events)]
        return [
            self._peak(start, end, phase)
            for (start, phase), end in zip(self.phases, ends, strict=True)
        ]

    def _number(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._alive:
            return self._alive[key][1]
        number = len(self.sizes)

        def gone(_: object) -> None:
            del self._alive[key]
            self.events.append(~number)

        self.sizes.append(-(-storage.nbytes() // self.granule) * self.granule)
        self.events.append(number)
        self._alive[key] = weakref.ref(storage, gone), number
        return number

    def _peak(self, start: int, end: int, phase: str) -> Peak:
        total, most, moment = 0, -1, 0
        for i, event in enumerate(self.events[:end]):
            total += self.sizes[event] if event >= 0 else -self.sizes[~event]
            if i >= start - 1 and total > most:
                most, moment = total, i
        alive: set[int] = set()
        for event in self.events[: moment + 1]:
            alive.add(event) if event >= 0 else alive.remove(~event)
        parts: dict[str, int] = defaultdict(int)
        for number in alive:
            parts[self.kinds.get(number, REST)] += self.sizes[number]
        return Peak(phase, most, dict(parts))

"""Memory over the recorded steps, by what it is for, from the allocations in a trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddiff.profiling.recording import Turns

TEMPORARY = "temporary"  # freed in the phase of the step that allocated it
# what outlives the phase that allocated it
OUTLIVING = {
    "forward": "activations",
    "loss": "activations",
    "backward": "gradients",
    "data": "batch",
    "noise": "noise and target",
    "optimiser": "optimiser state",
    "EMA": "averaged weights",
    "net": "predictions",
}
BEFORE = "from before"  # allocated before the recording, of a use that nobody named
REST = "rest"
ORDER = ("optimiser state", "averaged weights", "gradients", "batch", "noise and target",
         "predictions", "activations", REST, TEMPORARY)  # fmt: skip


@dataclass(frozen=True)
class Block:
    size: int
    category: str
    start: float
    end: float  # inf: not freed while recorded


@dataclass(frozen=True)
class Memory:
    """Bytes in each category (rows) after each allocation or release (columns), by microseconds
    from the first of the recorded steps that count."""

    categories: list[str]
    times: np.ndarray
    sizes: np.ndarray
    phases: list[tuple[float, float, str]]  # start, end, name

    @property
    def peak(self) -> int:
        return int(self.sizes.sum(0).max())

    def at_peak(self) -> dict[str, int]:
        column = self.sizes[:, int(self.sizes.sum(0).argmax())]
        return {name: int(size) for name, size in zip(self.categories, column, strict=True) if size}


def memory_in(
    events: Sequence[dict[str, Any]], turns: Turns, held: dict[str, int], cuda: bool
) -> Memory:
    """`held`: bytes by use that live throughout. The first recorded step is left out: what it
    leaves behind is known to the second."""
    kind = 1 if cuda else 0
    told = [e for e in events if e["name"] == "[memory]" and e["args"]["Device Type"] == kind]
    told.sort(key=lambda event: event["ts"])
    before = dict(held)
    if cuda and told:
        first = told[0]["args"]
        rest = first["Total Allocated"] - max(first["Bytes"], 0) - sum(held.values())
        before[BEFORE] = max(rest, 0)
    steps = [i for i, (step, _) in enumerate(turns.places) if step >= 2]
    start, end = turns.moments[steps[0]], turns.moments[steps[-1] + 1]
    phases = [
        (turns.moments[i] - start, turns.moments[i + 1] - start, turns.places[i][1]) for i in steps
    ]
    times, sizes, names = _added_up(_blocks(told, turns), before, start, end)
    return Memory(names, times, sizes, phases)


def _blocks(told: Sequence[dict[str, Any]], turns: Turns) -> list[Block]:
    alive: dict[int, tuple[int, float]] = {}
    blocks = []

    def close(address: int, end: float) -> None:
        size, start = alive.pop(address)
        place = turns.at(start)
        within = turns.at(end) == place if end < float("inf") else False
        category = TEMPORARY if within else OUTLIVING.get(place[1], REST)
        blocks.append(Block(size, category, start, end))

    for event in told:
        size, address = event["args"]["Bytes"], event["args"]["Addr"]
        if address in alive:
            close(address, event["ts"])
        if size > 0:
            alive[address] = size, event["ts"]
    for address in list(alive):
        close(address, float("inf"))
    return blocks


def _added_up(
    blocks: Sequence[Block], before: dict[str, int], start: float, end: float
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    blocks = [block for block in blocks if block.end > start and block.start < end]
    order = [*before, *ORDER]
    used = {block.category for block in blocks} | before.keys()
    names = [name for name in dict.fromkeys(order) if name in used]
    alive = [block for block in blocks if block.start <= start]
    changes = [(block.start, names.index(block.category), block.size)
               for block in blocks if block.start > start]  # fmt: skip
    changes += [(block.end, names.index(block.category), -block.size)
                for block in blocks if block.end < end]  # fmt: skip
    changes.sort(key=lambda change: change[0])
    steps = np.zeros((len(names), len(changes) + 1))
    steps[:, 0] = [before.get(name, 0) for name in names]
    for block in alive:
        steps[names.index(block.category), 0] += block.size
    for i, (_, row, size) in enumerate(changes):
        steps[row, i + 1] = size
    times = np.array([start, *(moment for moment, _, _ in changes)]) - start
    return times, steps.cumsum(1), names

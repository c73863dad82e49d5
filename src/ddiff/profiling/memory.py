"""Memory over the recorded steps, by what it is for, from the allocations in a trace; a picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddiff.pages.plotting import new_figure, pixels
from ddiff.pages.view import save_png
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
COLOURS = ("#3b5b92", "#6f8fc4", "#a9bfe3", "#5b9a8b", "#d98c3f", "#b8568a", "#8f7fc9",
           "#7f9c3b", "#4f9fb8", "#a39a8b")  # fmt: skip
GREY = "#d3d3d0"
SEEN = 0.003  # of the height: what is less is in the picture, but not in the legend
BAND = ("#dbe6f7", "#fbe3cb", "#d5ebe1", "#eadcf0", "#f6eec9", "#e3e3e0")


class Block(NamedTuple):
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
    blocks = [b for b in _blocks(told, turns) if b.end > start and b.start < end]
    used = {block.category for block in blocks} | before.keys()
    names = [name for name in dict.fromkeys([*before, *ORDER]) if name in used]
    sizes = np.array([float(before.get(name, 0)) for name in names])
    changes: list[tuple[float, int, int]] = []  # moment, row and size
    for size, category, since, until in blocks:
        row = names.index(category)
        if since <= start:
            sizes[row] += size
        else:
            changes.append((since, row, size))
        if until < end:
            changes.append((until, row, -size))
    changes.sort(key=lambda change: (change[0], change[2] < 0))  # allocations first
    differences = np.zeros((len(names), len(changes) + 1))
    differences[:, 0] = sizes
    for i, (_, row, size) in enumerate(changes, start=1):
        differences[row, i] = size
    times = np.array([start, *(moment for moment, _, _ in changes)]) - start
    return Memory(names, times, differences.cumsum(1), phases)


def _blocks(told: Sequence[dict[str, Any]], turns: Turns) -> list[Block]:
    alive: dict[int, tuple[int, float]] = {}
    blocks = []

    def close(address: int, end: float) -> None:
        size, start = alive.pop(address)
        place = turns.at(start)
        within = end < float("inf") and turns.at(end) == place
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


def draw(memory: Memory, path: Path) -> np.ndarray:
    """Writes the picture of a memory and returns it, [H, W, 3]."""
    figure = new_figure(11, 5, dpi=120, layout="constrained")
    band, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 12])
    times, sizes = memory.times / 1e3, memory.sizes / 1e6
    end = memory.phases[-1][1] / 1e3
    times, sizes = np.append(times, end), np.concatenate([sizes, sizes[:, -1:]], axis=1)
    colours = [GREY if name == TEMPORARY else COLOURS[i % len(COLOURS)]
               for i, name in enumerate(memory.categories)]  # fmt: skip
    axes.stackplot(times, sizes, labels=memory.categories, colors=colours, step="post", lw=0)
    total = sizes.sum(0)
    at = int(total.argmax())
    axes.plot(times[at], total[at], "o", color="black", ms=4)
    axes.annotate(f"peak {total[at]:.4g} MB", (times[at], total[at]), (0, 7),
                  textcoords="offset points", ha="center" if 0.1 < times[at] / end < 0.9
                  else "left" if times[at] / end <= 0.1 else "right")  # fmt: skip
    axes.set(xlim=(0, end), ylim=(0, total.max() * 1.12), xlabel="ms", ylabel="MB")
    axes.spines[["top", "right"]].set_visible(False)
    seen = sizes.max(1) > SEEN * total.max()
    handles, names = (list(compress(some, seen)) for some in axes.get_legend_handles_labels())
    axes.legend(handles[::-1], names[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0),
                frameon=False)  # fmt: skip
    _draw_phases(memory, band, end)
    drawn = pixels(figure)
    save_png(drawn, path)
    return drawn


def _draw_phases(memory: Memory, band: Any, end: float) -> None:
    """A strip in which every phase that is long enough is named."""
    lengths: dict[str, float] = {}
    for left, right, name in _joined(memory):
        lengths[name] = lengths.get(name, 0.0) + right - left
    longest = sorted(lengths, key=lambda name: -lengths[name])
    bands = dict(zip(longest, BAND, strict=False))  # the longest get colours of their own
    for left, right, name in _joined(memory):
        band.axvspan(left, right, color=bands.get(name, BAND[-1]), lw=0)
        if (right - left) / end > 0.011 * len(name):
            band.text((left + right) / 2, 0.5, name, ha="center", va="center", fontsize=8)
    band.set(ylim=(0, 1))
    band.axis("off")


def _joined(memory: Memory) -> Iterator[tuple[float, float, str]]:
    """Neighbours of one name as one, in milliseconds."""
    for name, group in groupby(memory.phases, key=lambda phase: phase[2]):
        neighbours = list(group)
        yield neighbours[0][0] / 1e3, neighbours[-1][1] / 1e3, name

"""Check that a training fits into memory_budget_gb, and search for a setting that makes it fit."""

from dataclasses import dataclass

import torch

from ddiff.backends import Native
from ddiff.build import build_backend, build_precision
from ddiff.config.levers import Setting, applied, changes, checkpointings, notches, pasted
from ddiff.config.options import Train
from ddiff.memory.dry import predicted
from ddiff.memory.tally import REST, Peak
from ddiff.profiling import bytes_of
from ddiff.system.console import console
from ddiff.system.errors import ConfigError
from ddiff.training.building import build_module
from ddiff.training.modules import Learner

GB = 1e9
ORDER = ("weights", "averaged weights", "gradients", "optimiser", REST, "batch", "samples")
DRAWN = ("sampling", "evaluation")


def check_budget(
    options: Train, module: Learner, device: torch.device, resuming: bool = False
) -> None:
    """Says what the run will need; raises ConfigError, with the nearest setting that fits, where
    that is more than memory_budget_gb."""
    limit = options.memory_budget_gb
    assert limit is not None
    parameters = sum(p.nbytes for p in module.net.parameters())
    alone = bytes_of(module.net) + bytes_of(module.ema) + parameters  # no lever makes these fewer
    if alone > limit * GB:
        raise ConfigError(
            f"memory_budget_gb={limit:g}: weights, averaged weights "
            f"and gradients alone take {alone / GB:.3f} GB; "
            "another net=, fewer net.channels= or a smaller net.width= take less"
        )
    worst = largest(predicted(options, module, device))
    if worst.total <= limit * GB:
        console.print(f"memory {in_words(worst)}; the budget is {limit:g} GB")
        return
    search = Search(options, device, limit * GB)
    native = isinstance(build_backend(options.backend, device), Native)
    settings = [{}] if resuming else list(changes(options, module.precision.dtype, native))
    found = search.nearest(settings)
    if found:
        advice = f"what fits: {pasted(found.setting)} ({in_words(found.peak)})"
    else:
        least = search.least
        assert least is not None
        advice = (
            "nothing fits; the smallest reachable is "
            f"{pasted(least.setting) or 'this'} ({in_words(least.peak)})"
        )
    raise ConfigError(f"memory_budget_gb={limit:g}: {in_words(worst)}; {advice}")


def in_words(peak: Peak) -> str:
    parts = (f"{name} {peak.parts[name] / GB:.3f}" for name in ORDER if name in peak.parts)
    return f"{peak.total / GB:.3f} GB predicted, in {peak.phase}: {', '.join(parts)}"


def largest(peaks: list[Peak]) -> Peak:
    return max(peaks, key=lambda peak: peak.total)


def fitting(options: Train, device: torch.device, limit: float) -> "Found | None":
    """Return the nearest setting with which a training takes at most `limit` bytes; None where
    there is none. The data's facts are filled in."""
    native = isinstance(build_backend(options.backend, device), Native)
    dtype = build_precision(options.precision, device).dtype
    return Search(options, device, limit).nearest(list(changes(options, dtype, native)))


@dataclass(frozen=True)
class Found:
    setting: Setting
    peak: Peak


class Search:
    """The nearest setting that fits: what keeps the arithmetic before what changes it, and of
    those the fewest turns of the levers.

    Every combination would be hundreds of dry runs: what a part of a batch takes is worked out from
    the whole batch, and what is chosen so is run.
    """

    def __init__(self, options: Train, device: torch.device, budget: float) -> None:
        self.options, self.device, self.budget = options, device, budget
        self.least: Found | None = None
        self.known: dict[str, list[Peak]] = {}

    def nearest(self, settings: list[Setting]) -> Found | None:
        for change in settings:
            try:
                found = self._within(change)
            except ConfigError:  # a net that cannot be: sizes that do not divide
                continue
            if found:
                return found
        return None

    def _within(self, change: Setting) -> Found | None:
        levels = checkpointings(applied(self.options, change))
        lightest = self._peaks({**change, **levels[-1]})
        change = {**change, **self._drawn(lightest)}
        last = list(notches(self.options, levels[-1]))[-1]
        if self._estimate(lightest, last.parts) > self.budget:
            self._remember({**change, **last.setting})
            return None
        cuts = [list(notches(self.options, level)) for level in levels]
        for turns in range(len(levels) + len(cuts[0])):
            # recomputing keeps every bit, so of equal turns most of these come first
            fewest, most = max(0, turns - len(cuts[0]) + 1), min(turns, len(levels) - 1)
            for more in range(most, fewest - 1, -1):
                notch = cuts[more][turns - more]
                whole = self._peaks({**change, **levels[more]})
                if self._estimate(whole, notch.parts) <= self.budget:
                    found = self._remember({**change, **notch.setting})
                    if found.peak.total <= self.budget:
                        return found
        return None

    def _peaks(self, setting: Setting) -> list[Peak]:
        words = pasted(setting)
        if words not in self.known:
            options = applied(self.options, setting)
            module = build_module(options, build_precision(options.precision, self.device))
            self.known[words] = predicted(options, module, self.device)
        return self.known[words]

    def _remember(self, setting: Setting) -> Found:
        found = Found(setting, largest(self._peaks(setting)))
        if self.least is None or found.peak.total < self.least.peak.total:
            self.least = found
        return found

    def _estimate(self, peaks: list[Peak], parts: int) -> float:
        """Bytes of training and validation where the batch is cut in so many parts."""
        return max(
            peak.total - (1 - 1 / parts) * sum(peak.parts.get(k, 0) for k in (REST, "batch"))
            for peak in peaks
            if peak.phase not in DRAWN
        )

    def _drawn(self, peaks: list[Peak]) -> Setting:
        """Batches of samples that fit, where those of the config do not."""
        return {
            f"{peak.phase}.batch_size": self._fitting(peak)
            for peak in peaks
            if peak.phase in DRAWN and peak.total > self.budget
        }

    def _fitting(self, peak: Peak) -> int:
        drawn = getattr(self.options, peak.phase)
        size = min(drawn.batch_size, drawn.num_samples)
        each = peak.parts[REST] / size
        return max(1, int((self.budget - peak.total + peak.parts[REST]) / each))

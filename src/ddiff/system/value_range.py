"""Meaning of the numbers in anyone's samples: one rule for evaluate and view.

signed: -1..1, unit: 0..1, bytes: 0..255. The bulk of the values decides, never a single one.
"""

import numpy as np

from ddiff.system.errors import DdiffError

RANGES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0), "bytes": (0.0, 255.0)}
OVERSHOOT = 0.25  # of a range's width: values this far outside are cut, farther ones are refused
FEW = 0.01  # of all values: so few do not decide


class Values:
    """Counts over numbers that are seen in pieces of any size: what they mean, and what is cut."""

    def __init__(self) -> None:
        self.least, self.most = float("inf"), float("-inf")
        self.total, self.negative, self.far_below, self.far_above = 0, 0, 0, 0
        self.outside = dict.fromkeys(RANGES, 0)
        self.binary = self.whole = True  # bool, integers

    def see(self, part: np.ndarray) -> None:
        """Counts these too; raises a DdiffError where one is not finite."""
        low, high = float(part.min()), float(part.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DdiffError("values that are not finite")
        self.least, self.most = min(self.least, low), max(self.most, high)
        self.total += part.size
        self.negative += int((part < -0.05).sum())
        self.far_below += int((part < -OVERSHOOT).sum())
        self.far_above += int((part > 1 + OVERSHOOT).sum())
        for name, (low, high) in RANGES.items():
            self.outside[name] += int(((part < low) | (part > high)).sum())
        self.binary &= part.dtype.kind == "b"
        self.whole &= part.dtype.kind in "bui"

    def guess(self) -> str:
        """The range that the values are in by all appearances; a DdiffError where two are."""
        if self.binary:
            return "unit"
        if self.far_below >= FEW * self.total:
            return "signed"  # overshoot of 0..1 does not reach so low
        if self.far_below or self.negative > FEW * self.total:
            raise DdiffError(
                f"{self.span()}, {self.negative} of {self.total} below -0.05: that may be -1..1 or "
                "0..1; say value_range=signed or value_range=unit"
            )
        if self.most <= 1 + OVERSHOOT:
            return "unit"
        if self.whole or self.far_above >= FEW * self.total:
            return "bytes"
        raise DdiffError(
            f"{self.span()}, {self.far_above} of {self.total} above {1 + OVERSHOOT}: that may be "
            "0..1 or 0..255; say value_range=unit or value_range=bytes, or cut them"
        )

    def check(self, name: str, declared: bool) -> None:
        """Raises a DdiffError where values lie farther outside the range than overshoot does."""
        low, high = RANGES[name]
        slack = OVERSHOOT * (high - low)
        if low - slack <= self.least and self.most <= high + slack:
            return
        if declared:
            raise DdiffError(
                f"{self.span()}, but value_range={name} means {low:g}..{high:g}, and up to "
                f"{slack:g} outside, which is cut"
            )
        raise DdiffError(
            f"{self.span()}, which is none of -1..1 (signed), 0..1 (unit), 0..255 (bytes); rescale "
            "them, or say which with value_range="
        )

    def note(self, name: str, declared: bool) -> str:
        """Note for people of what was assumed and what is cut; empty if there is nothing to say."""
        low, high = RANGES[name]
        said = [] if declared else [f"{low:g}..{high:g} ({name}); value_range= says otherwise"]
        if count := self.outside[name]:
            said.append(f"{count} of {self.total} values lie outside and are cut ({self.span()})")
        return "; ".join(said)

    def span(self) -> str:
        return f"values from {self.least:g} to {self.most:g}"

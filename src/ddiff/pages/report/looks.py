"""How runs and numbers look, on every picture, table and page."""

import math

# ten hues that light and dark paper both carry, told apart by the usual colour-blind eyes
PALETTE = ("#3b74d6", "#e07b39", "#2e9e78", "#c2559d", "#b8961e", "#5bb4cf", "#d4504c", "#8468c9",
           "#7d8a3a", "#8c8f99")  # fmt: skip
DASHES = ((), (5, 3), (1.5, 2.5), (8, 3, 1.5, 3))  # beyond ten, the same hues again, dashed


def colour(group: int) -> str:
    return PALETTE[group % len(PALETTE)]


def dashes(group: int) -> tuple[float, ...]:
    return DASHES[group // len(PALETTE) % len(DASHES)]


def number(value: float | None) -> str:
    """Four digits that count."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"

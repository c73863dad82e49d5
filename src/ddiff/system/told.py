"""Time and length of a step in the one number that a net is told."""

from torch import Tensor

LONGEST = 2**15  # times that a schedule may have; the number stays below 2^31


def encoded(t: Tensor, s: Tensor) -> Tensor:
    """Return what a net that learns shortcuts is told of a step from t [B] to s [B], int64.

    For s = t, a step of no length, it is t - 1, as for any other net.
    """
    return t - 1 + LONGEST * (t - s)


def decoded(told: Tensor) -> tuple[Tensor, Tensor]:
    """Return t - 1 and t - s."""
    return told % LONGEST, told // LONGEST

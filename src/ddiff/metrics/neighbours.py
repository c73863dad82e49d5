"""Two sets by the distances between their members.

Each function returns one number for each item, whose mean is the figure, so that the items can be
drawn again for an interval. Where several neighbours are equally near, as equal volumes are, the
one that counts is any of them with equal probability, and the number is the expectation.
"""

import numpy as np

from ddiff.metrics.figures import bootstrap
from ddiff.system.errors import DdiffError


def minimum_matching_distance(d_ref_gen: np.ndarray) -> np.ndarray:
    """Distances [R, G] of references to generated -> [R], each reference's to the nearest one
    generated (Achlioptas et al. 2018)."""
    return d_ref_gen.min(1)


def coverage(d_ref_gen: np.ndarray) -> np.ndarray:
    """[R, G] -> [R], the probability that a reference is the nearest one of something generated
    (Achlioptas et al. 2018)."""
    nearest = d_ref_gen == d_ref_gen.min(0)
    return 1 - np.prod(1 - nearest / nearest.sum(0), axis=1)


def one_nearest_neighbour_accuracy(
    d_aa: np.ndarray, d_ab: np.ndarray, d_bb: np.ndarray
) -> np.ndarray:
    """[N, N] thrice -> [2 N], the probability that the nearest neighbour of an item, of a and then
    of b, is of its own set (Lopez-Paz and Oquab 2017; Yang et al. 2019).

    Two samples of one law have mean (N - 1) / (2 N - 1), just below one half.
    """
    if not d_aa.shape == d_ab.shape == d_bb.shape or d_aa.shape[0] < 2:
        raise DdiffError(
            "1-NN accuracy compares two sets of equal number, 2 or more: got distances "
            f"{d_aa.shape}, {d_ab.shape} and {d_bb.shape}"
        )
    return np.concatenate([_own_share(d_aa, d_ab), _own_share(d_bb, d_ab.T)])


def _own_share(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    own = np.where(np.eye(len(own), dtype=bool), np.inf, own)
    nearest = np.minimum(own.min(1), other.min(1))[:, None]
    ours, theirs = (own == nearest).sum(1), (other == nearest).sum(1)
    return ours / (ours + theirs)


def closer_share(
    samples: np.ndarray, held_out: np.ndarray, seed: int = 0, repeats: int = 1000
) -> tuple[float, float, float]:
    """The probability that a sample lies nearer to its nearest training item than one held out
    does, ties one half, and its 95% interval, from both distances [S] and [H] to the nearest.

    0.5: the model remembers no training item; towards 1: it copies.
    """
    random = np.random.default_rng([seed, 1])  # not the numbers that bootstrap draws
    samples, held_out = np.asarray(samples), np.asarray(held_out)

    def share(drawn: np.ndarray) -> float:
        other = held_out[random.integers(0, len(held_out), len(held_out))]
        return _closer(drawn, other)

    return _closer(samples, held_out), *bootstrap(samples, share, seed, repeats)


def _closer(samples: np.ndarray, held_out: np.ndarray) -> float:
    """Mann and Whitney's U, as a share."""
    order = np.sort(held_out)
    below, up_to = (np.searchsorted(order, samples, side) for side in ("left", "right"))
    return float(1 - (below + up_to).mean() / (2 * len(order)))

"""Two sets of features, each taken as the union of balls that reach to the k-th neighbour.

The results are per sample, so that their means are the figures and `bootstrap` gives intervals
(with the balls held fixed).
"""

import torch
from torch import Tensor

from ddiff.metrics.pairs import distance_blocks
from ddiff.system.errors import ConfigError


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Kynkaanniemi et al. 2019: which of the generated [M] lie in a ball of the real [N, D], and
    which of the real [N] in a ball of the generated [M, D]."""
    precise = _inside(generated, real, _squared_radii(real, k))[0] > 0
    return precise, _inside(real, generated, _squared_radii(generated, k))[0] > 0


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Naeem et al. 2020: how many balls of the real hold each of the generated, over k [M], 1 on
    average where the laws agree; and which balls of the real hold any of the generated [N]."""
    balls, covered = _inside(generated, real, _squared_radii(real, k))
    return balls / k, covered


def _squared_radii(x: Tensor, k: int) -> Tensor:
    """Squared distance from each of [N, D] to its k-th nearest other, [N]."""
    if not 1 <= k < len(x):
        raise ConfigError(f"k={k} neighbours of each of {len(x)} samples: k must lie in 1..N - 1")
    nearest = torch.full((len(x), k), torch.inf, dtype=torch.float64, device=x.device)
    for rows, columns, squared in distance_blocks(x, x):
        if rows == columns:
            squared.fill_diagonal_(torch.inf)
        nearest[rows] = torch.cat([nearest[rows], squared], 1).topk(k, largest=False).values
    return nearest.amax(1)


def _inside(points: Tensor, centres: Tensor, squared_radii: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls hold each point, and which balls hold any."""
    balls = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    occupied = torch.zeros(len(centres), dtype=torch.bool, device=points.device)
    for rows, columns, squared in distance_blocks(points, centres):
        inside = squared <= squared_radii[columns]
        balls[rows] += inside.sum(1)
        occupied[columns] |= inside.any(0)
    return balls, occupied

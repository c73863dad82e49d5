"""Metrics of several samples made of one thing: whether their spread is that of the truth.

A scan with a hole has more than one right answer. The nearest sample to the truth on average is the
mean of all answers, which is blurred and no sample; so PSNR rewards what nobody wants. CRPS is
lowest where every pixel has its true law (Gneiting and Raftery 2007). How pixels go together it
does not see; the coverage along random directions does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddiff.metrics.figures import Case, Figure, bootstrap, mean_figure
from ddiff.system.bounds import Count


@dataclass(frozen=True)
class Ensembles:
    """CRPS, spread and coverage of versions of the same held-out sample.

    - `directions`: random ones in the space of samples, along which the rank of the truth among its
      versions is looked at.
    """

    directions: Count = 16

    def obstacle(self, case: Case) -> str | None:
        if case.versions > 1:
            return None
        return "needs several samples of each truth: from_image=held_out versions=5"

    def __call__(self, case: Case) -> list[Figure]:
        k, generator = case.versions, torch.Generator().manual_seed(case.seed)
        along = torch.randn(int(np.prod(case.samples.shape)), self.directions, generator=generator)
        parts = [
            self._looked_at(case, first, along) for first in range(0, len(case.samples) - k + 1, k)
        ]
        found = {name: np.array([part[name] for part in parts]) for name in parts[0]}
        how = {"reference": str(case.held_out), "versions": k}
        inside = how | {"directions": self.directions, "right": round((k - 1) / (k + 1), 3)}
        squares = np.stack([found["variance"] * (k + 1) / k, found["square"]], 1)

        def ratio(rows: np.ndarray) -> float:
            return float(np.sqrt(rows[:, 0].mean() / rows[:, 1].mean()))

        return [
            mean_figure("crps", found["crps"], how, "lower", case.seed),
            Figure("spread", ratio(squares), len(parts), how | {"right": 1},
                   *bootstrap(squares, ratio, case.seed)),
            mean_figure("covered", found["covered"], inside, None, case.seed),
        ]  # fmt: skip

    def _looked_at(self, case: Case, first: int, along: Tensor) -> dict[str, float]:
        """Return the figures of the versions of one truth."""
        rows = torch.arange(first, first + case.versions)
        x = case.samples.source.batch(rows)[0].flatten(1).double()
        truth = case.held_out.source.batch(rows[:1])[0].flatten(1).double()
        ordered, k = x.sort(0).values, case.versions
        place = torch.arange(k, dtype=torch.float64).mul_(2).sub_(k - 1)[:, None]
        between = 2 * (place * ordered).sum(0) / (k * (k - 1))  # mean |x - x'| of two versions
        across, there = x.float() @ along, truth.float() @ along
        inside = (across.amin(0) <= there[0]) & (there[0] <= across.amax(0))
        return {
            "crps": float(((x - truth).abs().mean(0) - between / 2).mean()),
            "variance": float(x.var(0).mean()),
            "square": float((x.mean(0) - truth).square().mean()),
            "covered": float(inside.double().mean()),
        }

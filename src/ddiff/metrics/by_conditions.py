"""Metrics of what was asked of samples: whether they are it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from ddiff.data.opening import Stack
from ddiff.metrics.figures import Case, Figure, Omitted, bootstrap, mean_figure
from ddiff.nets.conditions import CLASS, TEXT, VECTOR
from ddiff.system.bounds import Count

SIDE = 8  # of the small pictures by which neighbours are found


@dataclass(frozen=True)
class Conditions:
    """Metrics of whether samples are what was asked for, other than their class.

    - Numbers: the rank correlation of asked and got (`radius_rank`), and the mean absolute
      difference (`radius_error`). Where the data cannot measure a number in a sample, it is the
      mean over the `neighbours` nearest training samples, by small pictures.
    - The mask: the intersection over union with the sample's own (`mask_iou`).
    - Other pictures: the root mean square difference to the sample's own (`coarse_error`).

    Classes and texts that name one are read by a classifier: see `Labels`.
    """

    neighbours: Count = 5
    most: Count = 5000  # training samples that neighbours are looked for in

    def obstacle(self, case: Case) -> str | None:
        if case.asked is None or case.layout is None:
            return "needs samples of a net that is told more than a class"
        if not [name for name in case.layout.parts if name not in (CLASS, TEXT, VECTOR)]:
            return "a class or a text is read by metrics=labels, a vector by nothing"
        return None if case.data else "needs data"

    def __call__(self, case: Case) -> list[Figure | Omitted]:
        assert case.layout
        assert case.asked is not None
        found: list[Figure | Omitted] = []
        for name in case.layout.parts:
            if name in case.layout.numbers:
                found += self._number(case, name)
            elif name in case.layout.pictures:
                found.append(self._picture(case, name))
        return found

    def _number(self, case: Case, name: str) -> list[Figure | Omitted]:
        assert case.layout
        assert case.asked is not None
        how = {"got": "measured in the sample"}
        got = measured(case, name, case.samples)
        assert case.data
        known = case.train is not None and name in case.data.names_told()
        if got is None and not known:
            why = "nothing measures it in a sample, and data= tells none; say data.numbers="
            return [Omitted(f"{name}_rank", why)]
        if got is None:
            how = {"got": f"mean of the {self.neighbours} nearest of {self.most} training samples"}
            got = self._by_neighbours(case, name)
        pairs = torch.stack([case.layout.part(case.asked, name)[:, 0], got], 1).double().numpy()
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs) < 3:
            return [Omitted(f"{name}_rank", "fewer than 3 samples were asked for one")]
        low, high = bootstrap(pairs, rank_correlation, case.seed)
        value = rank_correlation(pairs)
        difference = np.abs(pairs[:, 0] - pairs[:, 1])
        return [
            Figure(f"{name}_rank", value, len(pairs), how, low, high, "higher"),
            mean_figure(f"{name}_error", difference, how, "lower", case.seed),
        ]

    def _by_neighbours(self, case: Case, name: str) -> Tensor:
        """Return the number that training samples like each sample have, [N]."""
        assert case.train
        assert case.data
        known = case.data.told(name, case.data.train)
        assert isinstance(known, Tensor)
        known = known[: self.most].float()
        given = ~known.isnan()
        theirs, ours = small(case.train, self.most)[given], small(case.samples)
        number = min(self.neighbours, len(theirs))
        nearest = torch.cdist(ours, theirs).topk(number, largest=False).indices
        return known[given][nearest].mean(1)

    def _picture(self, case: Case, name: str) -> Figure | Omitted:
        assert case.layout
        assert case.asked is not None
        got = measured(case, name, case.samples)
        mask = name == "mask"
        title = "mask_iou" if mask else f"{name}_error"
        if got is None:
            return Omitted(title, f"nothing measures {name} in a sample of these data")
        asked = case.layout.part(case.asked, name)
        given = ~asked.flatten(1).isnan().any(1)
        if not bool(given.any()):
            return Omitted(title, "no sample was asked for one")
        asked, got = asked[given].flatten(1), got[given].flatten(1)
        how = {"got": "the sample's own"}
        if mask:
            union = ((asked > 0) | (got > 0)).sum(1)
            both = ((asked > 0) & (got > 0)).sum(1)
            iou = torch.where(union > 0, both / union.clamp(min=1), 1.0)
            return mean_figure(title, iou.numpy(), how, "higher", case.seed)
        error = (asked - got).square().mean(1).sqrt()
        return mean_figure(title, error.numpy(), how, "lower", case.seed)


def measured(case: Case, name: str, stack: Stack) -> Tensor | None:
    """Return what the samples of a stack are under this name, [N, ...]; None if it is unknown."""
    assert case.data
    found = [case.data.measured(name, x) for x, _ in stack.chunks()]
    parts = [part for part in found if part is not None]
    return torch.cat(parts) if len(parts) == len(found) else None


def small(stack: Stack, most: int | None = None) -> Tensor:
    """Return samples as small pictures, [N, D]."""
    pool: Callable[..., Tensor]
    pool = adaptive_avg_pool2d if len(stack.shape) == 3 else adaptive_avg_pool3d
    sides = [min(SIDE, side) for side in stack.shape[1:]]
    return torch.cat([pool(x, sides).flatten(1) for x, _ in stack.chunks(most)])


def rank_correlation(pairs: np.ndarray) -> float:
    """Spearman's rank correlation of pairs [N, 2]; 0 if one side is constant."""
    ranks = rankdata(pairs, axis=0)
    ranks = ranks - ranks.mean(0)
    scale = np.sqrt((ranks**2).sum(0).prod())
    return float((ranks[:, 0] * ranks[:, 1]).sum() / scale) if scale > 0 else 0.0

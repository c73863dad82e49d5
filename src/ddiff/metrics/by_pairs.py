"""Metrics that compare each sample with one other."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ddiff.data.opening import Stack
from ddiff.metrics.figures import Case, Figure, Omitted, bootstrap, mean_figure, share_figure
from ddiff.metrics.pairs import nearest as nearest_pixels
from ddiff.metrics.pairs import pooled_psnr, psnr, ssim, window_for
from ddiff.metrics.perceptual import BACKBONES, Backbone, Perceptual, load_perceptual
from ddiff.metrics.sets import iou_distances, packed
from ddiff.system.bounds import Count
from ddiff.system.checkpoints import short_digest
from ddiff.system.errors import DdiffError

AT_ONCE = 32  # pictures through the net of LPIPS
MOST_COPIES = 0.1  # of the held-out samples; below it, a model that copies scores 0.95 or more


By = Literal["index", "nearest"]


@dataclass(frozen=True)
class ByPairs:
    """Base class of metrics of sample i and reference i, or of each sample and its nearest
    reference among the first `most`.

    Pairs by index are what early tools measured.
    """

    any_numbers: ClassVar[str] = "metrics=nearest_pairs"
    by: By = "index"
    most: Count = 1000

    def obstacle(self, case: Case) -> str | None:
        if self.by == "nearest":
            return None
        if not case.paired:
            return "needs a reference=... whose sample i belongs to sample i"
        n, m = len(case.samples), len(case.held_out)
        if n == m:
            return None
        return (
            f"needs as many samples ({n}) as references ({m}); {self.any_numbers} takes any numbers"
        )

    @property
    def prefix(self) -> str:
        """Beginning of the figures' names."""
        return "" if self.by == "index" else "nearest_"

    def pairs(self, case: Case) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield samples and their partners, [B, C, *S] each, in order."""
        n = len(case.samples)
        others = torch.arange(n)
        if self.by == "nearest":
            n = min(n, self.most)
            others = nearest_in(case.samples, case.held_out, n, self.most)[0]
        done = 0
        for x, _ in case.samples.chunks(n):
            yield x, case.held_out.source.batch(others[done : done + len(x)])[0]
            done += len(x)


@dataclass(frozen=True)
class Pairs(ByPairs):
    """PSNR and SSIM of pairs."""

    def obstacle(self, case: Case) -> str | None:
        if min(case.samples.shape[1:]) < 3:
            return "needs 3 points or more along each axis"
        return super().obstacle(case)

    def __call__(self, case: Case) -> list[Figure]:
        signal, similar = [], []
        for x, beside in self.pairs(case):
            signal.append(psnr(x, beside))
            similar.append(ssim(x, beside))
        decibels, similarity = torch.cat(signal).numpy(), torch.cat(similar).numpy()
        how = {"reference": str(case.held_out), "pairs": self.by, "intensities": "0..1"}
        pooled, averaged = how | {"mean": "of the square error"}, how | {"mean": "of decibels"}
        window, n = how | {"window": window_for(case.samples.shape[1:])}, len(decibels)
        return [
            Figure(f"{self.prefix}psnr", pooled_psnr(decibels), n, pooled, better="higher"),
            mean_figure(f"{self.prefix}psnr_mean", decibels, averaged, "higher", case.seed),
            mean_figure(f"{self.prefix}ssim", similarity, window, "higher", case.seed),
        ]


@dataclass(frozen=True)
class LPIPS(ByPairs):
    """LPIPS of pairs of pictures (Zhang et al. 2018): 0 for equal ones, more where they look
    different.

    - `net`: the classifier whose features are compared.
    - `weights`, `heads`: files of its weights and of those of LPIPS; see `load_perceptual`.
    """

    any_numbers: ClassVar[str] = "metrics.lpips.by=nearest"
    net: Backbone = "alex"
    weights: str | None = None
    heads: str | None = None

    def obstacle(self, case: Case) -> str | None:
        channels, *sides = case.samples.shape
        if case.volumes or channels not in (1, 3):
            return "needs pictures, grey or in colours"
        least = BACKBONES[self.net].least
        if min(sides) < least:
            return f"needs pictures of {least} pixels or more a side with net={self.net}"
        try:
            _ = self._distance
        except DdiffError as error:
            return str(error).removeprefix("lpips: ")
        return super().obstacle(case)

    @cached_property
    def _distance(self) -> Perceptual:
        return load_perceptual(self.net, self.weights, self.heads)

    def __call__(self, case: Case) -> list[Figure]:
        distance = self._distance
        found = [
            distance(a, b)
            for x, beside in self.pairs(case)
            for a, b in zip(x.split(AT_ONCE), beside.split(AT_ONCE), strict=True)
        ]
        how = {
            "reference": str(case.held_out),
            "pairs": self.by,
            "net": f"{self.net} {short_digest(distance)}",
        }
        values = torch.cat(found).double().numpy()
        return [mean_figure(f"{self.prefix}lpips", values, how, "lower", case.seed)]


@dataclass(frozen=True)
class Memorisation:
    """The probability that a sample is nearer to the training set than a held-out sample is.

    `closer_to_train` is 0.5 if nothing is memorised, and near 1 for copies. A held-out sample that
    equals a training sample ties with a copy, so copies score 1 - `held_out_copies` / 2 at most. If
    more than MOST_COPIES of the held-out samples are such, there is no verdict.
    """

    most: Count = 1000
    most_train: Count = 5000

    def obstacle(self, case: Case) -> str | None:
        return "needs the data that the model was trained on" if case.train is None else None

    def __call__(self, case: Case) -> list[Figure | Omitted]:
        assert case.train is not None
        ours, held_out = (
            nearest_in(stack, case.train, self.most, self.most_train)[1].numpy()
            for stack in (case.samples, case.held_out)
        )
        copies = int((held_out == 0).sum())
        used = min(len(case.train), self.most_train)
        how = {
            "train": f"{used} of {case.train}",
            "held_out": str(case.held_out),
            "distance": "1 - IoU" if case.volumes else "root mean square of pixels",
        }
        if copies > MOST_COPIES * len(held_out):
            verdict: Figure | Omitted = Omitted(
                "closer_to_train",
                f"cannot tell: {copies} of {len(held_out)} held-out samples equal a training "
                "sample, so copies are no sign of memory here",
            )
        else:
            share, low, high = closer_share(ours, held_out, case.seed)
            # copies of training samples that are not looked through count as new samples
            seen, told = used / len(case.train), 1 - copies / len(held_out) / 2
            copies_score = round(seen * told + (1 - seen) / 2, 2)
            bound = {} if copies_score == 1 else {"copies_score": copies_score}
            verdict = Figure("closer_to_train", share, len(ours), how | bound, low, high)
        return [
            verdict,
            mean_figure("nearest_train", ours, how, None, case.seed),
            mean_figure("nearest_train_of_held_out", held_out, how, None, case.seed),
            share_figure("held_out_copies", held_out == 0, how, None),
        ]


def nearest_in(samples: Stack, others: Stack, most: int, most_others: int) -> tuple[Tensor, Tensor]:
    """Index of each sample's nearest of the others, and its distance.

    Only the first `most` samples and the first `most_others` others count. Volumes are compared by
    1 - IoU, images by the root mean square difference.
    """
    if len(samples.shape) == 4:
        least = iou_distances(packed(samples, most), packed(others, most_others)).min(1)
        return least.indices, least.values
    index, squared = nearest_pixels(samples.first(most), others.first(most_others))
    return index, (squared / math.prod(samples.shape)).sqrt()


def closer_share(
    samples: np.ndarray, held_out: np.ndarray, seed: int = 0, repeats: int = 1000
) -> tuple[float, float, float]:
    """Probability that a sample is nearer to the training set than a held-out one; 95% interval.

    samples [S], held_out [H]: distances to the nearest training item. Ties count one half. 0.5: the
    model memorises no training item; near 1: it copies.
    """
    random = np.random.default_rng([seed, 1])  # not the numbers that bootstrap draws
    samples, held_out = np.asarray(samples), np.asarray(held_out)

    def share(drawn: np.ndarray) -> float:
        return _closer(drawn, held_out[random.integers(0, len(held_out), len(held_out))])

    return _closer(samples, held_out), *bootstrap(samples, share, seed, repeats)


def _closer(samples: np.ndarray, held_out: np.ndarray) -> float:
    """Mann-Whitney U, as a share of all pairs."""
    order = np.sort(held_out)
    below, up_to = (np.searchsorted(order, samples, side) for side in ("left", "right"))
    return float(1 - (below + up_to).mean() / (2 * len(order)))

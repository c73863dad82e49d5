"""Metrics that set each sample beside one other."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ddiff.metrics.case import Case, joined
from ddiff.metrics.figures import Figure, Omitted, mean_figure, share_figure
from ddiff.metrics.neighbours import closer_share
from ddiff.metrics.occupancy import iou_distances, pack
from ddiff.metrics.pairs import nearest as nearest_pixels
from ddiff.metrics.pairs import pooled_psnr, psnr, ssim, window_for
from ddiff.metrics.stack import Stack
from ddiff.system.bounds import Count
from ddiff.system.errors import ConfigError, nearest

By = Literal["index", "nearest"]
MOST_COPIES = 0.1  # of the held-out samples: a copier scores 0.95 or more


class Pairs:
    """PSNR and SSIM: of sample i and reference i, as early tools measured, or of each sample and
    the nearest of the reference."""

    def __init__(self, by: By = "index", most: Count = 1000) -> None:
        if by not in get_args(By):
            raise ConfigError(f"metrics: by is {by!r}{nearest(str(by), list(get_args(By)))}")
        self.by, self.most = by, most

    def obstacle(self, case: Case) -> str | None:
        if min(case.samples.shape[1:]) < 3:
            return "needs 3 points or more along each axis"
        if self.by == "nearest":
            return None
        if not case.paired:
            return "needs a reference=... whose sample i belongs to sample i"
        if len(case.samples) != len(case.held_out):
            return (
                f"needs as many samples ({len(case.samples)}) as references "
                f"({len(case.held_out)}); "
                "metrics=nearest_pairs takes any numbers"
            )
        return None

    def __call__(self, case: Case) -> list[Figure]:
        n = min(len(case.samples), self.most if self.by == "nearest" else len(case.samples))
        if self.by == "nearest":
            others = nearest_in(case.samples, case.held_out, n, self.most)[0]
        else:
            others = torch.arange(n)
        signal, similar = [], []
        done = 0
        for x, _ in case.samples.chunks(n):
            beside = case.held_out.source.batch(others[done : done + len(x)])[0]
            signal.append(psnr(x, beside))
            similar.append(ssim(x, beside))
            done += len(x)
        how = {"reference": str(case.held_out), "pairs": self.by, "intensities": "0..1"}
        prefix = "" if self.by == "index" else "nearest_"
        decibels = torch.cat(signal).numpy()
        pooled, averaged = how | {"mean": "of the square error"}, how | {"mean": "of decibels"}
        window = how | {"window": window_for(case.samples.shape[1:])}
        similarity = torch.cat(similar).numpy()
        return [
            Figure(f"{prefix}psnr", pooled_psnr(decibels), n, pooled, better="higher"),
            mean_figure(f"{prefix}psnr_mean", decibels, averaged, "higher", case.seed),
            mean_figure(f"{prefix}ssim", similarity, window, "higher", case.seed),
        ]


class Memorisation:
    """Is a sample nearer to its nearest training sample than one held out is to its own?

    `closer_to_train` is 0.5 where nothing is remembered, towards 1 for copies. A held-out sample
    that equals a training sample ties with a copy, so copies score 1 - `held_out_copies` / 2 at
    most. Where more than MOST_COPIES of the held-out ones are such, there is no verdict.
    """

    def __init__(self, most: Count = 1000, most_train: Count = 5000) -> None:
        self.most, self.most_train = most, most_train

    def obstacle(self, case: Case) -> str | None:
        return "needs the data that the model was trained on" if case.train is None else None

    def __call__(self, case: Case) -> list[Figure | Omitted]:
        assert case.train is not None
        ours = nearest_in(case.samples, case.train, self.most, self.most_train)[1].numpy()
        held_out = nearest_in(case.held_out, case.train, self.most, self.most_train)[1].numpy()
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
            # of copies, those of training samples that are not looked through count as fresh ones
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
    """For each of the first `most` samples its nearest of the first `most_others`: which, and how
    far. Volumes by 1 - IoU, images by the root mean square difference."""
    if len(samples.shape) == 4:
        distances = iou_distances(packed(samples, most), packed(others, most_others))
        least = distances.min(1)
        return least.indices, least.values
    index, squared = nearest_pixels(joined(samples, most), joined(others, most_others))
    return index, (squared / math.prod(samples.shape)).sqrt()


def packed(stack: Stack, most: int) -> Tensor:
    """The solids of the first `most` volumes, a bit a voxel."""
    return torch.cat([pack(x.flatten(1) > 0) for x, _ in stack.chunks(most)])

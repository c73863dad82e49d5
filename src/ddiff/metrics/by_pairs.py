"""Metrics that set each sample beside one other."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ddiff.bounds import Count
from ddiff.errors import ConfigError, nearest
from ddiff.metrics.case import Case, joined
from ddiff.metrics.figures import Figure, mean_figure
from ddiff.metrics.neighbours import closer_share
from ddiff.metrics.occupancy import iou_distances, pack
from ddiff.metrics.pairs import nearest as nearest_pixels
from ddiff.metrics.pairs import pooled_psnr, psnr, ssim, window_for
from ddiff.metrics.stack import Stack

By = Literal["index", "nearest"]


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
        how = {"reference": str(case.held_out), "pairs": self.by, "data_range": 2}
        prefix = "" if self.by == "index" else "nearest_"
        pooled = pooled_psnr(torch.cat(signal).numpy())
        window = {"window": window_for(case.samples.shape[1:])}
        return [
            Figure(f"{prefix}psnr", pooled, n, how | {"mean": "of the square error"}, None, None,
                   "higher"),
            mean_figure(f"{prefix}ssim", torch.cat(similar).numpy(), how | window, "higher",
                        case.seed),
        ]  # fmt: skip


class Memorisation:
    """Is a sample nearer to its nearest training sample than one held out is to its own?

    `closer_to_train` is 0.5 where nothing is remembered, towards 1 for copies.
    """

    def __init__(self, most: Count = 1000, most_train: Count = 5000) -> None:
        self.most, self.most_train = most, most_train

    def obstacle(self, case: Case) -> str | None:
        return "needs the data that the model was trained on" if case.train is None else None

    def __call__(self, case: Case) -> list[Figure]:
        assert case.train is not None
        ours = nearest_in(case.samples, case.train, self.most, self.most_train)[1].numpy()
        held_out = nearest_in(case.held_out, case.train, self.most, self.most_train)[1].numpy()
        share, low, high = closer_share(ours, held_out, case.seed)
        used = min(len(case.train), self.most_train)
        how = {
            "train": f"{used} of {case.train}",
            "held_out": str(case.held_out),
            "distance": "1 - IoU" if case.volumes else "root mean square of pixels",
        }
        return [
            Figure("closer_to_train", share, len(ours), how, low, high),
            mean_figure("nearest_train", ours, how, None, case.seed),
            mean_figure("nearest_train_of_held_out", held_out, how, None, case.seed),
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

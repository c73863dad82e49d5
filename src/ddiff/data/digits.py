"""The 1,797 handwritten digits that come with scikit-learn: real images, always at hand."""

import torch
from torch import Tensor

from ddiff.data.base import BatchSize, Data, Pixels, Workers, at_least
from ddiff.system.bounds import Seed

NATIVE = 8


class DigitSource:
    """8 x 8, 0..16, resized per batch: bilinear to larger, area to smaller sizes."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.labels, self.size = images, labels, size  # [N, 1, 8, 8], [N] uint8

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x = self.images[indices].float().div_(8).sub_(1)
        mode = "bilinear" if self.size > NATIVE else "area"
        if self.size != NATIVE:
            x = torch.nn.functional.interpolate(x, size=(self.size, self.size), mode=mode)
        return x, self.labels[indices].long()


class Digits(Data):
    """Grey images of one digit each. Validation is every tenth image of each class."""

    num_classes = 10

    def __init__(
        self,
        batch_size: BatchSize,
        seed: Seed,
        size: Pixels = NATIVE,
        num_workers: Workers = None,
        flip: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, flip)
        at_least(1, size=size)
        self.shape = (1, size, size)
        self.size, self.class_names = size, [str(digit) for digit in range(10)]

    def sources(self) -> tuple[DigitSource, DigitSource]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images).to(torch.uint8).view(-1, 1, NATIVE, NATIVE)
        y = torch.from_numpy(labels).to(torch.uint8)
        held_out = torch.zeros(len(y), dtype=torch.bool)
        for digit in range(10):
            held_out[(y == digit).nonzero()[9::10]] = True
        train, val = ~held_out, held_out
        return DigitSource(x[train], y[train], self.size), DigitSource(x[val], y[val], self.size)

"""The 1,797 handwritten digits that come with scikit-learn: real images without a download."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ddiff.data.base import Data, PictureSize, sides_of
from ddiff.data.conditions import Column, Picture
from ddiff.data.source import Source, Stored, as_shape
from ddiff.nets.conditions import TEXT
from ddiff.system.random import generator

NATIVE = 8
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FORMS = ("a {word}", "the digit {n}", "{word}", "a handwritten {word}", "the number {word}", "{n}")


@dataclass(eq=False, repr=False)
class Digits(Data):
    """Grey images of one digit each. Validation is every tenth image of each class."""

    size: PictureSize = NATIVE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shape = (1, *sides_of(self.size, 2))
        self.num_classes, self.class_names = 10, [str(digit) for digit in range(10)]

    def offered(self) -> list[str]:
        return [TEXT, *super().offered()]

    def told(self, name: str, source: Source) -> Column | Picture:
        """A caption that names the digit, in one of some forms drawn from the seed."""
        if name != TEXT:
            return super().told(name, source)
        assert isinstance(source, Stored)
        assert source.labels is not None
        digits = source.labels.tolist()
        random = generator("cpu", self.seed, "captions")
        forms = torch.randint(len(FORMS), (len(digits),), generator=random).tolist()
        return [
            FORMS[form].format(n=n, word=WORDS[n]) for n, form in zip(digits, forms, strict=True)
        ]

    def class_in(self, text: str) -> int | None:
        words = text.lower().split()
        named = {n for n, word in enumerate(WORDS) if word in words or str(n) in words}
        return named.pop() if len(named) == 1 else None

    def sources(self) -> tuple[Stored, Stored]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images).to(torch.uint8).view(-1, 1, NATIVE, NATIVE)
        y = torch.from_numpy(labels).to(torch.uint8)
        val = torch.zeros(len(y), dtype=torch.bool)
        for digit in range(10):
            val[(y == digit).nonzero()[9::10]] = True
        decode = partial(decoded, shape=self.shape)
        return Stored(x[~val], y[~val], decode), Stored(x[val], y[val], decode)


def decoded(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Scale images of 8 x 8 pixels of 0..16 to float32 in [-1, 1] of `shape`."""
    return as_shape(images.float().div_(8).sub_(1), shape)

"""Fingerprints of data sets whose laws are known."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from experiments.recipes.sets import FIELD_STD, SETS, WIDE
from torch import Tensor

from ddiff.recipes.fingerprint import Fingerprint, correlation_length, fingerprint, repeated


class Samples:
    """A source of samples in memory."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, None]:
        return self.x[indices], None


def of(x: Any, classes: int | None = None) -> Fingerprint:
    x = torch.as_tensor(np.asarray(x), dtype=torch.float32)
    return fingerprint(
        SimpleNamespace(
            train=Samples(x), shape=tuple(x.shape[1:]), classes_told=classes, names_told=list
        )
    )


@pytest.fixture(scope="module")
def known() -> dict[str, Fingerprint]:
    laws = {name: one.law(one.number, np.random.default_rng(0)) for name, one in SETS.items()}
    return {name: of(x, 10 if name == "digits" else None) for name, x in laws.items()}


@pytest.mark.parametrize(
    ("name", "shape", "law", "colours"),
    [
        ("balls", (1, 8, 8, 8), "binary", 2),
        ("field", (1, 8, 8), "unbounded", None),
        ("digits", (1, 8, 8), "bounded", None),
        ("colours", (3, 8, 8), "bounded", 4),
        ("fifty", (1, 8, 8), "bounded", None),
    ],
)
def test_what_is_known_of_a_data_set_is_found(
    known: dict[str, Fingerprint],
    name: str,
    shape: tuple[int, ...],
    law: str,
    colours: int | None,
) -> None:
    found, number = known[name], SETS[name].number
    assert (found.shape, found.number, found.looked_at) == (shape, number, min(number, 1024))
    assert (found.law, found.colours) == (law, colours)
    x = SETS[name].law(number, np.random.default_rng(0)).astype(np.float32)
    x = x[np.arange(found.looked_at) * number // found.looked_at].reshape(found.looked_at, -1)
    assert found.copies == found.looked_at - len(np.unique(x, axis=0))
    assert found.classes == (10 if name == "digits" else None)


def test_copies_among_fifty_are_counted(known: dict[str, Fingerprint]) -> None:
    assert (known["fifty"].copies, known["fifty"].distinct) == (10, 40)


def test_lamps_agree_everywhere_but_at_the_lamps(known: dict[str, Fingerprint]) -> None:
    """Four lamps of 8 voxels of 512 vary, each with variance 1; 16 different volumes."""
    found = known["lamps"]
    assert found.agreeing == 1 - 32 / 512
    assert found.spread == pytest.approx((32 / 512) ** 0.5, rel=0.01)
    assert (found.law, found.colours) == ("binary", 2)
    assert found.copies == 1000 - 16


def test_a_field_has_its_deviation_and_its_correlation_length(
    known: dict[str, Fingerprint],
) -> None:
    """The correlation is exp(-r^2 / (2 WIDE^2)), and linear between whole pixels."""
    one, two = (math.exp(-(r**2) / (2 * WIDE**2)) for r in (1, 2))
    length = 1 + (one - math.exp(-1)) / (one - two)
    assert known["field"].spread == pytest.approx(FIELD_STD, rel=0.01)
    assert known["field"].length == pytest.approx(length, rel=0.01)
    assert known["field"].agreeing == 0


def test_white_noise_is_correlated_over_no_pixel() -> None:
    """The line from 1 at lag 0 to 0 at lag 1 is 1/e at 1 - 1/e."""
    x = torch.randn(400, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    assert correlation_length(x) == pytest.approx(1 - math.exp(-1), abs=0.01)


def test_constant_data_have_no_correlation_that_falls() -> None:
    found = of(np.full((5, 1, 8, 4), 0.25))
    assert (found.length, found.spread, found.agreeing) == (3.0, 0.0, 1.0)
    assert (found.copies, found.distinct) == (4, 1)


def test_near_copies_are_counted_and_copies_are_not_among_them() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(30, 1, 8, 8, generator=random) * 2 - 1
    noise = torch.randn(3, 1, 8, 8, generator=random)
    assert repeated(x) == (0, 0)
    assert repeated(torch.cat([x, x[:2]])) == (2, 0)
    # three new ones and the three that they are nearly copies of
    assert repeated(torch.cat([x, x[:2], x[:3] + 0.01 * noise])) == (2, 6)
    assert repeated(torch.cat([x, x[:3] + 0.2 * noise])) == (0, 0)  # a fifth of the distance


def test_few_files_and_one_are_looked_at() -> None:
    found = of(np.zeros((1, 3, 4, 4)))
    assert (found.number, found.looked_at, found.copies, found.colours) == (1, 1, 0, 1)

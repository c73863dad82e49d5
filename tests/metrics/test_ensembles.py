"""Several samples of one truth: scores against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ddiff.data.opening import Array, Stack
from ddiff.data.source import Again
from ddiff.metrics import Ensembles
from ddiff.metrics.figures import Case, Figure

TRUTHS, K, SIDE = 400, 8, 6


def stack(x: torch.Tensor) -> Stack:
    return Stack(Array((x / 8).numpy(), Path("x"), "signed"), "x")  # within -1..1


def figures(spread: float, shift: float = 0.0) -> dict[str, Figure]:
    """Figures of truths of the standard normal law and versions of another one, in eighths."""
    generator = torch.Generator().manual_seed(0)
    truths = torch.randn(TRUTHS, 1, SIDE, SIDE, generator=generator)
    drawn = torch.randn(TRUTHS * K, 1, SIDE, SIDE, generator=generator) * spread + shift
    held_out = stack(truths)
    again = Stack(Again(held_out.source, TRUTHS, TRUTHS * K, K), "truths")
    case = Case(stack(drawn), None, again, make_extractor=list, paired=True, versions=K)
    assert Ensembles().obstacle(case) is None
    return {figure.name: figure for figure in Ensembles()(case)}


def test_versions_of_the_true_law() -> None:
    """CRPS of a standard normal law is 1 / sqrt(pi); of 8 versions and the truth, each is the
    lowest or the highest as often: 7 of 9 truths lie between."""
    found = figures(1.0)
    assert 8 * found["crps"].value == pytest.approx(np.pi**-0.5, rel=0.01)
    assert found["spread"].value == pytest.approx(1, abs=0.01)
    assert found["covered"].value == pytest.approx(7 / 9, abs=0.01)
    assert found["covered"].protocol["right"] == pytest.approx(7 / 9, abs=1e-3)
    for figure, true in ((found["spread"], 1), (found["covered"], 7 / 9)):
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < true < figure.high


@pytest.mark.parametrize(("spread", "shift"), [(0.5, 0.0), (1.5, 0.0), (1.0, 0.5)])
def test_other_laws_score_worse(spread: float, shift: float) -> None:
    """E|x - y| - E|x - x'| / 2, both of normal laws; the spread beside the error of the mean."""
    found, scale = figures(spread, shift), np.hypot(spread, 1)
    normal = torch.distributions.Normal(0, 1)
    at = torch.tensor(shift / scale, dtype=torch.float64)
    far = 2 * normal.log_prob(at).exp() + at * (2 * normal.cdf(at) - 1)
    true = scale * float(far) - spread / np.pi**0.5
    assert 8 * found["crps"].value == pytest.approx(true, rel=0.01)
    assert true > np.pi**-0.5
    right = np.sqrt(spread**2 * (K + 1) / K / (1 + spread**2 / K + shift**2))
    assert found["spread"].value == pytest.approx(right, rel=0.02)
    if not shift:
        assert (found["covered"].value > 7 / 9) == (spread > 1)


def test_one_version_says_nothing_of_a_spread() -> None:
    x = stack(torch.zeros(2, 1, 4, 4))
    case = Case(x, None, x, make_extractor=list, paired=True)
    assert Ensembles().obstacle(case) == (
        "needs several samples of each truth: from_image=held_out versions=5"
    )

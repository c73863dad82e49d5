"""Races: who goes on, and how often a race errs where the truth is known."""

import numpy as np
import pytest

from ddiff.study.racing import go_on, rung_steps


def test_the_best_share_goes_on_in_the_order_of_the_variants() -> None:
    figures = {"a": {0: 3.0, 1: 3.0}, "b": {0: 1.0, 1: 1.0}, "c": {0: 2.0, 1: 2.0}, "d": {0: 9.0}}
    assert go_on(figures, 0.5, "lower") == ["b", "c"]
    assert go_on(figures, 0.5, "higher") == ["a", "d"]
    assert go_on(figures, 0.01, "lower") == ["b"]
    assert go_on(figures, 0.25, "lower", keep=["a"]) == ["a", "b"]


def test_only_seeds_that_all_have_are_compared() -> None:
    assert go_on({"a": {0: 1.0, 1: 9.0}, "b": {0: 2.0}}, 0.5, "lower") == ["a"]


def test_what_has_failed_does_not_go_on() -> None:
    assert go_on({"a": {}, "b": {0: 1.0}}, 0.9, "lower", keep=["a"]) == ["b"]
    assert go_on({"a": {}}, 0.5, "lower") == []


def test_rungs_are_steps() -> None:
    assert rung_steps(900, [0.11, 0.33]) == [99, 297, 900]
    assert rung_steps(2, [0.01, 0.5]) == [1, 1, 2]


@pytest.mark.parametrize(("spread", "right"), [(0.0, 1.0), (0.5, 0.95), (2.0, 0.6)])
def test_how_often_a_race_of_nine_finds_the_best(spread: float, right: float) -> None:
    """Curves c_i + (noise of a rung), c_i a unit apart; the noise falls by half at each rung."""
    random = np.random.default_rng(0)
    truth = np.arange(9.0)
    won = []
    for _ in range(400):
        names = [str(i) for i in range(9)]
        for rung in range(2):
            noise = spread * random.standard_normal((9, 3)) * 0.5**rung
            figures = {n: dict(enumerate(truth[int(n)] + noise[int(n)])) for n in names}
            names = go_on(figures, 0.34, "lower")
        assert len(names) == 1
        won.append(names == ["0"])
    assert np.mean(won) >= right

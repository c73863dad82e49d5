"""Races: who goes on, and how often a race errs where the truth is known."""

import numpy as np
import pytest

from ddiff.study.hindsight import RACES, hindsight, on_the_way
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


def curves(spread: float, seeds: int = 3) -> dict[str, dict[int, np.ndarray]]:
    """Nine variants whose figures fall to 10, 11, ... at the end; `spread` is that of a seed."""
    random = np.random.default_rng(3)
    fall = np.linspace(3, 1, 10)
    return {
        str(i): {s: (10 + i) * fall + spread * random.standard_normal(10) for s in range(seeds)}
        for i in range(9)
    }


def test_races_in_hindsight() -> None:
    found = hindsight(curves(0.0), "lower")
    assert [(one.races, one.right, one.regret) for one in found] == [(4, 4, 0)] * len(RACES)
    assert found[0].work == pytest.approx((9 * 0.1 + 3 * 0.2 + 0.7) / 9)
    noisy = hindsight(curves(5.0), "lower")
    assert noisy[0].right < 4
    assert noisy[0].regret > 0
    late = dict(curves(0.0), late={s: np.array([99.0] * 9 + [1.0]) for s in range(3)})
    assert [one.right for one in hindsight(late, "lower")] == [0] * len(RACES)
    assert hindsight({"a": {0: np.ones(10), 1: np.ones(10)}}, "lower") == []


def test_what_a_run_had_logged_on_its_way(tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "tensorboard")) as board:
        for step in range(10, 101, 10):
            board.add_scalar("val/loss", 1 / step, step - 1)  # as Lightning counts
    assert on_the_way(tmp_path, "val/loss", 100) == pytest.approx(1 / np.arange(10, 101, 10))
    assert on_the_way(tmp_path, "val/loss", 200) is None  # it is not finished
    assert on_the_way(tmp_path, "val/iou", 100) is None

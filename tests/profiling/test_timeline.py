"""Every moment of a step has one owner."""

import time

import numpy as np
import pytest

from ddiff.profiling.summary import curves, phases_of, summary
from ddiff.profiling.timeline import Ledger, Timeline
from ddiff.system.phases import listening, phase, step


class Clock:
    """Hands out 0, 1, 4, 9, ...; `lag` of its moments have not passed yet, as on a busy GPU."""

    name = "fake"

    def __init__(self, lag: float = 0) -> None:
        self.count, self.lag, self.waited, self.spare = 0, lag, [], []

    def now(self):
        self.count += 1
        return (self.count - 1) ** 2

    def seconds(self, start, end):
        return end - start

    def passed(self, moment):
        return moment <= (self.count - 1 - self.lag) ** 2

    def wait(self, moment):
        self.waited.append(moment)

    def free(self, moments):
        self.spare += moments


def one_step():
    with step():  # 0
        with phase("forward"), phase("loss"):  # 1, 4
            pass  # 9, 16
        with phase("timesteps"), phase("forward"):  # 25
            pass  # 36
    # 49


def test_the_innermost_phase_owns_the_time_and_the_rest_is_other():
    timeline = Timeline(Clock())
    with listening(timeline):
        one_step()
    found = {name: list(seconds) for name, seconds in timeline.ledger.seconds.items()}
    assert found == {
        "other": [(1 - 0) + (25 - 16) + (49 - 36)],
        "forward": [(4 - 1) + (16 - 9)],
        "loss": [9 - 4],
        "timesteps": [36 - 25],  # the forward pass inside is part of it
    }
    assert sum(sum(seconds) for seconds in found.values()) == 49


def test_what_is_beside_the_steps_is_no_part_of_them():
    timeline = Timeline(Clock())
    with listening(timeline):
        with phase("start"), phase("net"):  # 0
            pass  # 1
        with phase("net"):  # nobody's: between steps
            pass
        with step(), phase("samples"):  # 4, 9
            pass  # 16, 25
        with phase("transfer"):  # 36
            pass  # 49
    timeline.close()
    assert timeline.apart == {"start": 1, "samples": 16 - 9, "transfer": 49 - 36}
    assert {n: list(s) for n, s in timeline.ledger.seconds.items()} == {
        "other": [(9 - 4) + (25 - 16)]
    }


def test_a_busy_device_is_read_later_and_nothing_is_lost():
    quick, slow = Timeline(Clock()), Timeline(Clock(lag=20))
    for timeline in (quick, slow):
        with listening(timeline):
            for _ in range(5):
                one_step()
    assert len(slow.ledger.numbers) < 5 == len(quick.ledger.numbers)
    slow.close()
    assert slow.ledger.numbers == quick.ledger.numbers
    assert slow.ledger.seconds == quick.ledger.seconds
    assert slow.clock.waited  # pyright: ignore
    assert len(slow.clock.spare) == slow.clock.count  # pyright: ignore


def test_only_timed_steps_count_and_a_torn_one_is_dropped():
    ended = []
    timeline = Timeline(Clock(), timed=lambda number: number > 2, ended=ended.append)
    with listening(timeline):
        for _ in range(4):
            one_step()
        with pytest.raises(KeyError), step(), phase("forward"):
            raise KeyError
        timeline.enter("step")
    timeline.close()
    assert list(timeline.ledger.numbers) == [3, 4, 5]
    assert ended == [1, 2, 3, 4, 5]
    assert timeline.ledger.seconds["loss"][2] == 0


def test_a_phase_that_comes_late_was_zero_before():
    ledger = Ledger()
    ledger.add(1, {"a": 1.0})
    ledger.add(2, {"b": 2.0})
    assert {n: list(s) for n, s in ledger.seconds.items()} == {"a": [1, 0], "b": [0, 2]}


def test_shares_and_percentiles_are_those_of_numpy():
    rng = np.random.default_rng(0)
    ledger, whole = Ledger(), rng.gamma(2, 1, (101, 2)).astype(np.float32)
    for number, (forward, other) in enumerate(whole, 1):
        ledger.add(number, {"other": other, "forward": forward})
    found = summary(phases_of(ledger))
    assert list(found["phases"]) == ["forward", "other"]
    total = whole.sum(1, dtype=float)
    for name, at in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert found["step_ms"][name] == pytest.approx(1e3 * np.percentile(total, at))
    share = whole[:, 0].sum(dtype=float) / whole.sum(dtype=float)
    assert found["phases"]["forward"]["share"] == pytest.approx(share)
    assert sum(p["ms"] for p in found["phases"].values()) == pytest.approx(
        found["step_ms"]["mean"], rel=1e-12
    )
    points = [(v, s) for tag, v, s in curves(ledger, 1000) if tag == "profile_ms/forward"]
    assert len(points) == 20
    assert points[-1][1] == 1101
    first = whole[: points[0][1] - 1000, 0].mean(dtype=float)
    assert points[0][0] == pytest.approx(1e3 * first)


def test_a_mark_that_nobody_hears_costs_less_than_a_microsecond():
    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(1000):
            with phase("forward"):
                pass
        return time.perf_counter() - started

    assert min(seconds() for _ in range(20)) / 1000 < 1e-6

import math

import pytest
import torch

from ddiff.diffusion import spaced
from ddiff.diffusion.schedules import (
    constant,
    cosine,
    flow,
    karras,
    linear,
    sigmoid,
    zero_terminal_snr,
)
from ddiff.diffusion.solvers import ddim, ddpm
from ddiff.system.errors import ConfigError

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

SPACINGS = ["linear", "trailing", "quadratic", "logsnr", "karras"]
SCHEDULES = {
    "linear": lambda T: linear(T, beta_T=0.015),
    "cosine": cosine,
    "sigmoid": sigmoid,
    "constant": lambda T: constant(T, beta=0.02),
    "flow": flow,
    "karras": karras,
    "zero": lambda T: zero_terminal_snr(cosine(T)),
}


@pytest.mark.parametrize("spacing", SPACINGS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), T=st.integers(20, 400), name=st.sampled_from(list(SCHEDULES)))
def test_exact_counts_strict_fall_and_end_points(spacing, data, T, name):
    num_steps = data.draw(st.integers(1, T))
    times = spaced(SCHEDULES[name](T), num_steps, spacing)
    assert times.dtype == torch.int64
    assert times.shape == (num_steps + 1,)
    assert times[0] == T
    assert times[-1] == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [20, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_as_many_steps_as_times_visits_every_time(spacing, T, name):
    assert spaced(SCHEDULES[name](T), T, spacing).tolist() == list(range(T, -1, -1))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_one_step_goes_from_noise_to_data(spacing):
    assert spaced(linear(), 1, spacing).tolist() == [1000, 0]
    assert spaced(constant(1), 1, spacing).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("trailing", [1000, 800, 600, 400, 200, 0]),
        ("leading", [801, 601, 401, 201, 1, 0]),  # diffusers' 800, 600, .. 0, which count from 0
        ("linear", [1000, 750, 500, 251, 1, 0]),  # 1000 - 249.75 i, rounded
        ("quadratic", [1000, 574, 266, 75, 1, 0]),  # (31.6228 - 7.6557 i)^2
    ],
)
def test_five_steps_by_hand(spacing, expected):
    assert spaced(linear(), 5, spacing).tolist() == expected


@pytest.mark.parametrize("num_steps", [5, 10, 25])
def test_logsnr_is_even_up_to_one_time(num_steps):
    schedule = linear(20_000)
    times = spaced(schedule, num_steps, "logsnr")
    log_snr = schedule.log_snr[times[:-1]]
    low = -10.0  # the floor; this schedule ends at -10.05
    high = schedule.log_snr[1].item()
    wanted = torch.linspace(low, high, num_steps, dtype=torch.float64)
    # each node is the nearest time: off by half a gap at most
    around = (
        schedule.log_snr[(times[:-1] - 1).clamp(min=1)]
        - schedule.log_snr[(times[:-1] + 1).clamp(max=schedule.T)]
    )
    assert ((log_snr - wanted).abs()[1:] <= around[1:] / 2 + 1e-12).all()
    assert log_snr[-1].item() == high


@pytest.mark.parametrize("schedule", [cosine(), zero_terminal_snr(linear()), sigmoid()])
def test_logsnr_wastes_no_steps_where_there_is_only_noise(schedule):
    times = spaced(schedule, 25, "logsnr")
    assert (schedule.log_snr[times] < -10.5).sum() <= 1


def test_logsnr_of_many_times_needs_no_table_of_all_pairs():
    T = 200_000  # all pairs of 20,000 steps would take 32 GB
    times = spaced(linear(T), 20_000, "logsnr")
    assert times[0] == T
    assert (times.diff() < 0).all()


@pytest.mark.parametrize(
    ("num_steps", "spacing", "message"),
    [
        (0, "trailing", r"solver.num_steps must lie in 1..1000 \(the schedule's T\), not 0"),
        (1001, "linear", "not 1001"),
        (10, "log", "'log' is not one of linear, trailing, leading, quadratic, logsnr"),
    ],
)
def test_wrong_options_are_refused_in_one_line(num_steps, spacing, message):
    with pytest.raises(ConfigError, match=message) as caught:
        spaced(linear(), num_steps, spacing)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_an_offset_is_added_to_leading_times():
    assert spaced(linear(), 5, "leading", 1).tolist() == [802, 602, 402, 202, 2, 0]
    assert spaced(linear(), 1000, "leading", 1).tolist() == list(range(1000, -1, -1))
    with pytest.raises(ConfigError, match=r"solver\.steps_offset: 1 is for spacing=leading"):
        spaced(linear(), 5, "trailing", 1)
    assert ddim(linear(), 5, spacing="leading", steps_offset=1).times[0] == 802
    assert ddpm(linear(), 5, spacing="leading", steps_offset=1).times[0] == 802


@pytest.mark.parametrize("num_steps", [2, 10, 18])
def test_karras_spacing_is_even_where_the_schedule_is(num_steps):
    """schedule=karras is linear in sigma^(1 / 7): there the spacing is that of `linear`."""
    schedule = karras(1 + 17 * 9 * 5)
    assert spaced(schedule, num_steps, "karras").tolist() == (
        spaced(schedule, num_steps, "linear").tolist()
    )


def test_karras_spacing_by_hand():
    """Levels nearest to sigma^(1 / 7) = 1, .. from 148.4 (the bound) to 1 / 999 of a flow."""
    schedule = flow()
    sigma = schedule.sigma
    ends = math.exp(5) ** (1 / 7), (1 / 999) ** (1 / 7)
    for i, t in enumerate(spaced(schedule, 5, "karras").tolist()[1:-1], 1):
        wanted = (ends[0] + i / 4 * (ends[1] - ends[0])) ** 7
        assert sigma[t - 1] < wanted < sigma[t + 1]


def test_own_times_are_taken_as_they_are():
    plan = ddim(linear(100), 3, spacing=[100, 40, 7])
    assert plan.times.tolist() == [100, 40, 7, 0]
    wrong = ([100, 40], [100, 40, 40], [101, 40, 7], [100, 40, 0], [])
    for times in wrong:
        with pytest.raises(ConfigError, match="must be num_steps=3 times that fall from 100"):
            ddim(linear(100), 3, spacing=times)

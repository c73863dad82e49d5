import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from ddiff.diffusion.schedules import (
    Schedule,
    constant,
    cosine,
    flow,
    from_betas,
    karras,
    linear,
    scaled_linear,
    shifted,
    sigmoid,
    zero_terminal_snr,
)
from ddiff.system.errors import ConfigError


def table(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def linear_as_given(T: int) -> Schedule:
    return linear(T, rescale=False)


def cosine_closed_form(t: int, T: int) -> float:
    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return f(t / T) / f(0)


def sigmoid_closed_form(t: int, T: int) -> float:
    def s(u: float) -> float:
        return 1 / (1 + math.exp(-(6 * u - 3)))

    return (s(1) - s(t / T)) / (s(1) - s(0))


# SNR(T) and sqrt(abar_T) as printed in Lin et al. 2024, Table 1 (their cosine is in float32)
@pytest.mark.parametrize(
    ("schedule", "snr", "root"),
    [(linear(), 4.035993e-05, 0.006353), (cosine(), 2.428735e-09, 4.928220e-05)],
)
def test_published_terminal_values(schedule, snr, root):
    assert schedule.T == 1000
    abar = schedule.abar[-1].item()
    assert abar / (1 - abar) == pytest.approx(snr, rel=2e-5)
    assert math.sqrt(abar) == pytest.approx(root, rel=1e-4)
    assert schedule.log_snr[-1].item() == pytest.approx(math.log(snr), abs=2e-5)


def test_scaled_linear_is_the_product_of_squares():
    """abar_T as that of Stable Diffusion's scheduler, 0.00466 (sigma 14.61)."""
    schedule = scaled_linear()
    abar = schedule.abar[-1].item()
    assert math.sqrt((1 - abar) / abar) == pytest.approx(14.6146, rel=1e-4)
    low, high = 0.00085**0.5, 0.012**0.5
    betas = [(low + (high - low) * i / 999) ** 2 for i in range(1000)]
    for t in (1, 500, 1000):
        expected = math.exp(math.fsum(math.log1p(-beta) for beta in betas[:t]))
        assert schedule.abar[t].item() == pytest.approx(expected, rel=1e-12)
    half = scaled_linear(500)
    assert half.log_snr[-1].item() == pytest.approx(schedule.log_snr[-1].item(), abs=0.05)


def test_linear_is_the_product_of_its_betas():
    schedule = linear()
    assert schedule.abar[-1].item() == pytest.approx(4.0358e-5, rel=1e-5)
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    for t in (1, 2, 500, 1000):
        expected = math.exp(math.fsum(math.log1p(-beta) for beta in betas[:t]))
        assert schedule.abar[t].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("T", [100, 1000, 10_000])
def test_linear_rescaled_ends_at_the_same_noise_level(T):
    # log abar_T = -sum beta - sum beta^2 / 2 - ..; the first sum is 10.05 for every T
    betas = [(1e-4 + (0.02 - 1e-4) * i / (T - 1)) * 1000 / T for i in range(T)]
    second = math.fsum(beta**2 / 2 + beta**3 / 3 for beta in betas)
    got = linear(T).abar[-1].log().item()
    assert got == pytest.approx(-10.05 - second, rel=2e-2 * 100 / T)
    assert linear(T, rescale=False).abar[1].item() == pytest.approx(1 - 1e-4, rel=1e-15)


@pytest.mark.parametrize("T", [2, 10, 1000, 4000])
@pytest.mark.parametrize(
    ("build", "closed_form"), [(cosine, cosine_closed_form), (sigmoid, sigmoid_closed_form)]
)
def test_closed_forms_until_the_clipped_end(build, closed_form, T):
    expected = table(*(closed_form(t, T) for t in range(T)))
    torch.testing.assert_close(build(T).abar[:-1], expected, rtol=1e-8, atol=1e-12)
    # beta_T would be 1; it is clipped at 0.999
    last = build(T).abar
    assert (last[-1] / last[-2]).item() == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize("beta", [0.001, 0.1, 0.9])
def test_constant_is_a_power(beta):
    t = torch.arange(101, dtype=torch.float64)
    torch.testing.assert_close(constant(100, beta).abar, (1 - beta) ** t, rtol=1e-12, atol=0)


def test_toy_schedule_of_the_voxel_work():
    assert constant().abar[-1].item() == pytest.approx(0.9**100, rel=1e-12)
    assert constant().log_snr[1].item() == pytest.approx(math.log(9), rel=1e-12)


@pytest.mark.parametrize("T", [1, 2, 50, 1000, 5000])
@pytest.mark.parametrize(
    "build", [linear_as_given, cosine, sigmoid, lambda T: constant(T, beta=0.01)]
)
def test_every_table_falls_strictly_from_exactly_one(build, T):
    abar = build(T).abar
    assert abar.dtype == torch.float64
    assert abar.shape == (T + 1,)
    assert abar[0].item() == 1.0
    assert (abar.diff() < 0).all()
    assert abar[-1] > 0
    assert build(T).log_snr[0] == math.inf


@pytest.mark.parametrize("base", [linear(), cosine(), sigmoid(), constant()])
def test_zero_terminal_snr_is_algorithm_1(base):
    schedule = zero_terminal_snr(base)
    assert schedule.abar[0].item() == 1.0
    assert schedule.abar[-1].item() == 0.0
    assert schedule.log_snr[-1] == -math.inf
    # sqrt(abar) is shifted by its last value and scaled so that t = 1 keeps its own
    root = base.abar.sqrt()
    scale = root[1] / (root[1] - root[-1])
    torch.testing.assert_close(
        schedule.abar[1:].sqrt(), (root[1:] - root[-1]) * scale, rtol=1e-13, atol=1e-16
    )
    assert schedule.abar[1].item() == pytest.approx(base.abar[1].item(), rel=1e-15)
    torch.testing.assert_close(zero_terminal_snr(schedule).abar, schedule.abar, rtol=1e-15, atol=0)


def test_log_snr_closed_form():
    schedule = Schedule(table(1, 0.8, 0.5, 0.1, 0))
    expected = [math.inf, math.log(4), 0.0, math.log(1 / 9), -math.inf]
    assert schedule.log_snr.tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("space", [(), (4, 5), (2, 3, 4)])
def test_add_noise_closed_form(space):
    schedule = Schedule(table(1, 0.64, 0.36))
    x_0 = torch.randn(3, 2, *space, dtype=torch.float64)
    eps = torch.randn_like(x_0)
    x_t = schedule.add_noise(x_0, torch.tensor([2, 0, 1]), eps)
    expected = torch.stack([0.6 * x_0[0] + 0.8 * eps[0], x_0[1], 0.8 * x_0[2] + 0.6 * eps[2]])
    torch.testing.assert_close(x_t, expected, rtol=1e-14, atol=1e-14)


def test_half_of_the_precision_is_lost_only_after_the_square_root():
    # 1 - abar taken in float32 would be wrong by 3e-4 at t = 1
    schedule = linear()
    t = torch.arange(1001)
    a, b = schedule.signal_and_noise(t, torch.zeros(1001, 1))
    assert a.dtype == b.dtype == torch.float32
    assert torch.equal(a.flatten(), schedule.abar.sqrt().float())
    assert torch.equal(b.flatten(), (1 - schedule.abar).sqrt().float())
    assert b[1].item() == pytest.approx(0.01, rel=1e-7)


def test_a_table_first_used_without_gradients_still_serves_training():
    schedule = linear()
    with torch.inference_mode():
        schedule.signal_and_noise(torch.tensor([1000]), torch.zeros(1, 1))
    x = torch.ones(1, 1, requires_grad=True)
    schedule.add_noise(x, torch.tensor([1000]), torch.zeros(1, 1)).backward()
    assert x.grad.item() == pytest.approx(0.0063528, rel=1e-4)


def test_a_schedule_is_a_value():
    with pytest.raises(FrozenInstanceError):
        linear().abar = table(1, 0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Schedule(table(1, float("nan"), 0.5)), "finite"),
        (lambda: Schedule(table(1, 0.5, 0.6)), "falls strictly"),
        (lambda: Schedule(table(1, 0.5, 0.5)), "falls strictly"),
        (lambda: Schedule(table(0.999, 0.5)), "falls strictly"),
        (lambda: Schedule(table(1, 0.5, -0.1)), "falls strictly"),
        (lambda: Schedule(table(1, 0.5).float()), "float64"),
        (lambda: Schedule(table(1)), "T >= 1"),
        (lambda: Schedule(table(1, 0.5)[None]), "float64 table"),
        (lambda: linear(0), "T >= 1"),
        (lambda: cosine(-3), "T >= 1"),
        (lambda: linear(10), r"beta must lie in \(0, 1\); these run from 0.01 to 2"),
        (lambda: linear(beta_1=0.0), r"run from 0 to 0.02"),
        (lambda: linear(beta_T=float("nan")), "beta must lie in"),
        (lambda: constant(beta=1.0), "beta must lie in"),
        (lambda: constant(beta=1e-17), "stall"),
        (lambda: cosine(max_beta=1.0), "beta must lie in"),
        (lambda: sigmoid(start=1.0, end=1.0), "start 1.0 must be below end 1.0"),
        (lambda: sigmoid(start=-60.0, end=60.0), "beta must lie in"),
        (lambda: zero_terminal_snr(constant(1)), "T >= 2"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(build, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_shifted_multiplies_every_snr() -> None:
    plain = cosine(50)
    noisier = shifted(plain, 1 / 64)
    snr = [s.abar[1:] / (1 - s.abar[1:]) for s in (plain, noisier)]
    assert torch.allclose(snr[0] / 64, snr[1], rtol=1e-12, atol=0)
    assert noisier.abar[0] == 1
    assert torch.allclose(shifted(plain, 1.0).abar, plain.abar, rtol=1e-14, atol=0)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="snr_factor"):
            shifted(plain, wrong)


def test_betas_one_by_one():
    table = linear(10, rescale=False)
    betas = (1 - table.abar[1:] / table.abar[:-1]).tolist()
    torch.testing.assert_close(from_betas(betas).abar, table.abar)
    assert from_betas([0.5, 1.0]).abar.tolist() == [1.0, 0.5, 0.0]
    for wrong in ([0.5, 1.0, 0.5], [0.0], [1.5]):
        with pytest.raises(ConfigError, match="every beta must lie"):
            from_betas(wrong)


@pytest.mark.parametrize("T", [1, 4, 1000])
def test_flow_is_the_straight_path(T):
    """The noise over the signal at u = t / T is u / (1 - u), and the last time is pure noise."""
    sigma = flow(T).sigma
    expected = [t / (T - t) for t in range(T)]
    assert sigma[:-1].tolist() == pytest.approx(expected, rel=1e-12)
    assert sigma[-1] == torch.inf


@pytest.mark.parametrize("shift", [3.0, 0.5])
def test_a_shifted_flow_is_that_of_stable_diffusion_3(shift):
    """Esser et al. 2024, Eq. 23: u becomes s u / (1 + (s - 1) u), every SNR divided by s^2."""
    u = torch.arange(101, dtype=torch.float64) / 100
    u = shift * u / (1 + (shift - 1) * u)
    expected = (1 - u) ** 2 / ((1 - u) ** 2 + u**2)
    torch.testing.assert_close(
        shifted(flow(100), 1 / shift**2).abar, expected, rtol=1e-12, atol=1e-14
    )


def test_karras_is_the_table_of_edm():
    """Karras et al. 2022, Eq. 5, with the 18 levels of their CIFAR-10 sampler."""
    schedule = karras(18)
    assert schedule.sigma[[1, 18]].tolist() == pytest.approx([0.002, 80], rel=1e-9)
    for i, sigma in enumerate(schedule.sigma[1:].flip(0).tolist()):
        root = 80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
        assert sigma == pytest.approx(root**7, rel=1e-9)


@pytest.mark.parametrize(("T", "low", "high"), [(1, 0.002, 80.0), (10, 80.0, 80.0), (10, 3.0, 1.0)])
def test_a_karras_schedule_needs_two_levels(T, low, high):
    with pytest.raises(ConfigError, match=f"needs T >= 2 steps, not {T}, and sigma_min {low:g}"):
        karras(T, low, high)

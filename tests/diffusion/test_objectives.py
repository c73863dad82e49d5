import pytest
import torch
from torch import Tensor

from ddiff.diffusion import X0, Eps, Flow, Objective, Schedule, V
from ddiff.diffusion.schedules import constant, cosine, flow, karras, linear, zero_terminal_snr
from ddiff.system.errors import ConfigError

OBJECTIVES = [Eps, X0, V, Flow]


def draws(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """t = every time, x_0 and eps [T, 3, 2] float64."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(1, schedule.T + 1)
    x_0, eps = torch.randn(2, schedule.T, 3, 2, dtype=torch.float64, generator=generator)
    return t, x_0, eps


def snr(schedule: Schedule) -> Tensor:
    return schedule.abar[1:] / (1 - schedule.abar[1:])


@pytest.mark.parametrize(
    ("objective", "schedule"),
    [(Eps(), linear()), (Eps(), constant())]
    + [
        (objective, schedule)
        for objective in (X0(), V(), V(data_std=0.4), Flow())
        for schedule in (linear(), cosine(), zero_terminal_snr(linear()), flow(), karras())
    ],
)
def test_round_trip(objective: Objective, schedule: Schedule):
    t, x_0, eps = draws(schedule)
    x_t = schedule.add_noise(x_0, t, eps)
    pred = objective.target(schedule, x_0, eps, t)
    back = objective.to_x_0(schedule, x_t, pred, t)
    # eps divides by sqrt(abar): a round-off of x_t grows by 1 / sqrt(abar_T) = 157
    torch.testing.assert_close(back, x_0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        objective.to_eps(schedule, x_t, pred, t), eps, rtol=1e-12, atol=1e-12
    )


def test_targets_are_the_papers():
    schedule = Schedule(torch.tensor([1, 0.64, 0.36], dtype=torch.float64))
    x_0 = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    eps = torch.tensor([[5.0], [-1.0]], dtype=torch.float64)
    t = torch.tensor([1, 2])
    assert Eps().target(schedule, x_0, eps, t).flatten().tolist() == [5, -1]
    assert X0().target(schedule, x_0, eps, t).flatten().tolist() == [2, 3]
    v = V().target(schedule, x_0, eps, t).flatten().tolist()
    assert v == pytest.approx([0.8 * 5 - 0.6 * 2, 0.6 * -1 - 0.8 * 3], rel=1e-14)
    assert Flow().target(schedule, x_0, eps, t).flatten().tolist() == [3, -4]


@pytest.mark.parametrize("data_std", [1.0, 0.5, 3.0])
def test_v_is_the_preconditioning_of_edm(data_std):
    """Karras et al. 2022, Table 1: D = c_skip x + c_out F(c_in x), F = -v, but for c_in, which is
    that of unit variance."""
    schedule, objective = karras(30), V(data_std=data_std)
    t, x_0, eps = draws(schedule)
    sigma, s = schedule.sigma[1:].view(-1, 1, 1), data_std
    x = s * x_0 + sigma * eps
    c_in, c_skip = 1 / (1 + sigma**2).sqrt(), s**2 / (s**2 + sigma**2)
    c_out = sigma * s / (s**2 + sigma**2).sqrt()
    x_0 = s * x_0
    torch.testing.assert_close(schedule.add_noise(x_0, t, eps), c_in * x)
    F = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(objective.to_x_0(schedule, c_in * x, -F, t), c_skip * x + c_out * F)
    target = (x_0 - c_skip * x) / c_out  # their loss, weighted by 1 / c_out^2, is that of F
    found = objective.target(schedule, x_0, eps, t)
    torch.testing.assert_close(-found, target, rtol=1e-6, atol=1e-6)
    assert found.square().mean() == pytest.approx(1, abs=0.2)


def test_v_at_zero_terminal_snr_says_minus_x_0():
    schedule = zero_terminal_snr(linear())
    x_0, eps = torch.randn(2, 4, 1, dtype=torch.float64)
    t = torch.full((4,), schedule.T)
    assert torch.equal(V().target(schedule, x_0, eps, t), -x_0)
    assert torch.equal(schedule.add_noise(x_0, t, eps), eps)


def errors(objective: Objective, schedule: Schedule) -> Tensor:
    """Square error of the prediction per t, where x_0 is guessed wrong and x_t is given."""
    t, x_0, eps = draws(schedule)
    guess = x_0 + 1 + 0.1 * eps
    a, b = schedule.signal_and_noise(t, x_0)
    eps_guess = eps - a / b * (guess - x_0)  # the same x_t = a x_0 + b eps
    pred = objective.target(schedule, guess, eps_guess, t)
    return (pred - objective.target(schedule, x_0, eps, t)).square().sum((1, 2))


@pytest.mark.parametrize(
    ("objective", "ratio"),
    [
        (Eps(), lambda snr: snr),
        (X0(), torch.ones_like),
        (V(), lambda snr: snr + 1),
        (Flow(), lambda snr: (snr.sqrt() + 1) ** 2),
    ],
)
def test_error_ratio_to_x_0(objective, ratio):
    """|eps err|^2 = SNR |x_0 err|^2 and |v err|^2 = (SNR + 1) |x_0 err|^2."""
    schedule = linear()
    expected = ratio(snr(schedule)) * errors(X0(), schedule)
    torch.testing.assert_close(errors(objective, schedule), expected, rtol=1e-9, atol=0)


def min_snr(snr: Tensor, gamma: float) -> dict[type, Tensor]:
    """Hang et al. 2023, section 3.4."""
    low = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64))
    return {Eps: low / snr, X0: low, V: low / (snr + 1), Flow: low / (snr.sqrt() + 1) ** 2}


def p2(snr: Tensor, k: float, gamma: float) -> dict[type, Tensor]:
    """Choi et al. 2022, Eq. 8 on eps; times SNR on x_0; times SNR / (SNR + 1) on v."""
    on_eps = 1 / (k + snr) ** gamma
    return {Eps: on_eps, X0: snr * on_eps, V: snr / (snr + 1) * on_eps,
            Flow: snr / (snr.sqrt() + 1) ** 2 * on_eps}  # fmt: skip


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("schedule", [linear(), cosine(), constant()])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights(kind, schedule, gamma):
    weights = kind(weighting="min_snr", min_snr_gamma=gamma).weights(schedule)
    assert weights[0] == 0
    expected = min_snr(snr(schedule), gamma)[kind]
    torch.testing.assert_close(weights[1:], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize(("k", "gamma"), [(1.0, 1.0), (1.0, 0.5), (0.1, 2.0)])
def test_p2_weights(kind, k, gamma):
    schedule = linear()
    weights = kind(weighting="p2", p2_k=k, p2_gamma=gamma).weights(schedule)
    assert weights[0] == 0
    expected = p2(snr(schedule), k, gamma)[kind]
    torch.testing.assert_close(weights[1:], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_no_weighting_is_one(kind):
    assert kind().weights(linear()).tolist() == [0.0] + [1.0] * 1000


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
@pytest.mark.parametrize("kind", [Eps, V, Flow])
def test_the_weighted_loss_is_the_same_number_for_every_objective(kind, weighting):
    schedule = linear()
    objective, reference = kind(weighting=weighting), X0(weighting=weighting)
    got = objective.weights(schedule)[1:] * errors(objective, schedule)
    expected = reference.weights(schedule)[1:] * errors(reference, schedule)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("weighting", ["none", "min_snr", "p2"])
@pytest.mark.parametrize("kind", [X0, V, Flow])
def test_zero_terminal_snr_leaves_the_weights_finite(kind, weighting):
    schedule = zero_terminal_snr(linear())
    objective = kind(weighting=weighting)
    objective.check(schedule)
    weights = objective.weights(schedule)
    assert weights.isfinite().all()
    assert weights[-1].item() == (1 if weighting == "none" else 0)  # SNR = 0 weighs nothing


def test_eps_is_refused_with_zero_terminal_snr():
    for schedule in (linear(), cosine(), constant()):
        Eps().check(schedule)
    with pytest.raises(ConfigError, match="objective eps cannot recover x_0") as caught:
        Eps().check(zero_terminal_snr(linear()))
    assert "use objective=v, x0 or flow" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "min-snr"}, "'min-snr' is not one of none, min_snr, p2"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma 0.0 must be above 0"),
        ({"min_snr_gamma": float("nan")}, "min_snr_gamma nan must be above 0"),
        ({"p2_k": -1.0}, "p2_k -1.0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        V(**options)
    assert "\n" not in str(caught.value)

"""Plans against Gaussian data, x_0 ~ N(m, s^2): E[x_0 | x_t] is linear in x_t, so that every plan
is an affine map with noise, and its mean and covariance are propagated exactly: no Monte Carlo."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ddiff.diffusion import X0, Eps, Flow, Plan, Schedule, V, solve, spaced
from ddiff.diffusion.schedules import constant, cosine, flow, karras, linear, zero_terminal_snr
from ddiff.diffusion.solvers import ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, heun, unipc

SPACINGS = ["linear", "trailing", "quadratic", "logsnr", "karras"]


@dataclass(frozen=True)
class Gaussian:
    m: float
    s: float

    def denoiser(self, abar: float) -> tuple[float, float]:
        """(k, c) of E[x_0 | x_t] = k x_t + c."""
        k = math.sqrt(abar) * self.s**2 / self.marginal(abar)[1]
        return k, self.m - k * math.sqrt(abar) * self.m

    def marginal(self, abar: float) -> tuple[float, float]:
        """Mean and variance of x_t."""
        return math.sqrt(abar) * self.m, abar * self.s**2 + 1 - abar


def moments(plan: Plan, data: Gaussian, mean: float, variance: float) -> Tensor:
    """Mean and variance of x at every time of the plan, [N + 1, 2]: z = (x, x_0_previous,
    x_0_before), z' = M z + o + (d noise, 0, 0), o = (b c_0, c_0, 0)."""
    z = torch.tensor([mean, 0, 0], dtype=torch.float64)
    covariance = torch.diag(torch.tensor([variance, 0, 0], dtype=torch.float64))
    path = [torch.stack([z[0], covariance[0, 0]])]
    columns = torch.stack(plan.coefficients, 1).tolist()
    abars = plan.schedule.abar[plan.times[:-1]].tolist()
    for abar, (a, b, c, d, e) in zip(abars, columns, strict=True):
        k, c_0 = data.denoiser(abar)
        step = torch.tensor([[a + b * k, c, e], [k, 0, 0], [0, 1, 0]], dtype=torch.float64)
        z = step @ z + torch.tensor([b * c_0, c_0, 0], dtype=torch.float64)
        covariance = step @ covariance @ step.T
        covariance[0, 0] += d * d
        path.append(torch.stack([z[0], covariance[0, 0]]))
    return torch.stack(path)


def truth(plan: Plan, data: Gaussian) -> Tensor:
    """Mean and variance of x_t at every time of the plan, [N + 1, 2]."""
    return torch.tensor(
        [data.marginal(abar) for abar in plan.schedule.abar[plan.times].tolist()],
        dtype=torch.float64,
    )


def run(plan: Plan, data: Gaussian) -> Tensor:
    """Moments of the plan started from the true law of x_T."""
    return moments(plan, data, *data.marginal(plan.schedule.abar[-1].item()))


SOLVERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "ddim eta 0.5": lambda *a, **k: ddim(*a, eta=0.5, **k),
    "ddim eta 1": lambda *a, **k: ddim(*a, eta=1.0, **k),
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2m_sde eta 0.5": lambda *a, **k: dpmpp_2m_sde(*a, eta=0.5, **k),
    "heun": heun,
    "unipc": unipc,
}
SCHEDULES = [linear(), cosine(), constant(), zero_terminal_snr(linear()), flow(), karras()]


@pytest.mark.parametrize("num_steps", [1, 2, 50])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_point_data_is_exact_at_every_step(schedule, solver, spacing, num_steps):
    """s = 0: the estimate is m at once, and every plan must land on N(alpha_t m, sigma_t^2)."""
    data = Gaussian(0.7, 0.0)
    plan = SOLVERS[solver](schedule, num_steps, spacing=spacing)
    torch.testing.assert_close(run(plan, data), truth(plan, data), rtol=0, atol=1e-11)


@pytest.mark.parametrize("num_steps", [3, 50, None])
@pytest.mark.parametrize("schedule", [linear(), zero_terminal_snr(linear())])
def test_ddpm_with_variance_beta_is_exact_for_standard_normal_data(schedule, num_steps):
    """Ho et al. 2020, section 3.2: sigma^2 = beta is optimal for x_0 ~ N(0, 1)."""
    data = Gaussian(0.0, 1.0)
    plan = ddpm(schedule, num_steps, variance="beta")
    torch.testing.assert_close(run(plan, data)[:-1], truth(plan, data)[:-1], rtol=0, atol=1e-11)
    # the last step returns its mean, E[x_0 | x_t]: it lacks 1 - abar_t of the variance
    abar = schedule.abar[plan.times[-2]].item()
    assert run(plan, data)[-1, 1].item() == pytest.approx(abar, abs=1e-11)


@pytest.mark.parametrize("s", [0.2, 0.5, 1.0])
def test_ddpm_over_all_times_brackets_the_variance(s):
    """For s <= 1 sigma^2 = beta tilde is too little and beta too much; the error falls as 1 / T."""
    data = Gaussian(0.3, s)
    for T, tolerance in ((1000, 1e-2), (4000, 2.5e-3)):
        schedule = linear(T)
        low, high = (ddpm(schedule, variance=v) for v in ("posterior", "beta"))
        got_low, got_high, expected = run(low, data), run(high, data), truth(low, data)
        assert (got_low[1:, 1] < expected[1:, 1]).all()
        assert (got_high[1:-1, 1] > expected[1:-1, 1] - 1e-11).all()
        for got in (got_low, got_high):
            torch.testing.assert_close(got[:, 0], expected[:, 0], rtol=0, atol=1e-11)
            torch.testing.assert_close(got[:, 1], expected[:, 1], rtol=0, atol=tolerance)


FINE = linear(100_000)  # integer times do not matter
CASES = [Gaussian(0.4, 0.5), Gaussian(-0.8, 0.3), Gaussian(0.0, 2.0)]


def flowed(data: Gaussian, abar_t: float, abar_s: float, x: float) -> float:
    """The probability flow of a Gaussian keeps (x - mean) / std."""
    (mean_t, var_t), (mean_s, var_s) = data.marginal(abar_t), data.marginal(abar_s)
    return mean_s + math.sqrt(var_s / var_t) * (x - mean_t)


def ode_errors(
    solver, data: Gaussian, step_counts: list[int], schedule: Schedule = FINE, spacing="logsnr"
) -> list[float]:
    """Error against the exact flow at 7/10 of the way: the same time for every count 10 k + 1,
    and before the last, singular step."""
    errors = []
    for num_steps in step_counts:
        plan = solver(schedule, num_steps, spacing=spacing)
        t = spaced(schedule, num_steps, spacing)[7 * (num_steps - 1) // 10].item()
        node = int((plan.times == t).nonzero()[-1])  # after its correction, if there is one
        abar = schedule.abar[plan.times].tolist()
        got = moments(plan, data, 1.3, 0.0)[node, 0].item()
        errors.append(abs(got - flowed(data, abar[0], abar[node], 1.3)))
    return errors


PATHS = {  # each with a spacing that has no step whose length stays
    "linear": (FINE, "logsnr"),
    "flow": (flow(100_000), "linear"),
    "karras": (karras(100_000), "karras"),
}
DETERMINISTIC = {
    "ddim": (ddim, 1),
    "dpmpp_2m": (dpmpp_2m, 2),
    "heun": (heun, 2),
    "heun in sigma": (lambda *a, **k: heun(*a, line="sigma", **k), 2),
    "unipc": (unipc, 3),
}


@pytest.mark.parametrize("data", CASES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence(name, path, data):
    (solver, order), (schedule, spacing) = DETERMINISTIC[name], PATHS[path]
    if path == "flow" and name == "heun in sigma":
        pytest.skip("it has no start where abar_T = 0")
    errors = ode_errors(solver, data, [321, 641], schedule, spacing)
    # near pure noise 2M's steps are long in log SNR, however many there are: it takes more of them
    tolerance = 0.3 if name == "dpmpp_2m" and path != "linear" else 0.05
    measured = math.log2(errors[0] / errors[1])
    if name == "unipc" and path != "linear":  # of its first steps the error falls as 1 / N^2
        second = ode_errors(dpmpp_2m, data, [641], schedule, spacing)
        assert measured > 2
        assert errors[1] < second[0] / 3
    else:
        assert measured == pytest.approx(order, abs=tolerance)


@pytest.mark.parametrize("data", CASES)
def test_second_order_pays_off_at_25_steps(data):
    (first,), (second,) = (ode_errors(s, data, [31]) for s in (ddim, dpmpp_2m))
    assert second < first / 4


def weak_errors(data: Gaussian, eta: float, step_counts: list[int]) -> list[float]:
    errors = []
    for num_steps in step_counts:
        plan = dpmpp_2m_sde(FINE, num_steps, eta=eta)
        node = 7 * (num_steps - 1) // 10
        errors.append((run(plan, data) - truth(plan, data))[node].abs().max().item())
    return errors


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("data", CASES)
def test_sde_moments_converge(data, eta):
    """Second order too: the noise is additive and the midpoint is taken in its drift."""
    errors = weak_errors(data, eta, [81, 161, 321])
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.15)
    assert errors[-1] < 1e-3 * max(data.s**2, 1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("data", CASES)
def test_zero_terminal_snr_starts_from_the_exact_prior(data, solver):
    schedule = zero_terminal_snr(FINE)
    plan = SOLVERS[solver](schedule, 200, spacing="logsnr")
    mean, variance = moments(plan, data, 0.0, 1.0)[-1].tolist()
    assert mean == pytest.approx(data.m, abs=1e-10)
    tolerance = 7e-2 if "dd" in solver else 2e-3  # first order, and higher
    assert variance == pytest.approx(data.s**2, rel=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("objective", [Eps(), X0(), V(), Flow()])
def test_monte_carlo_through_solve(solver, objective):
    """The loop itself, with a net, has the moments of the recursion, within 5 standard errors."""
    schedule, data, B = linear(), Gaussian(0.4, 0.5), 20_000
    plan = SOLVERS[solver](schedule, 8, spacing="trailing")
    random = torch.Generator().manual_seed(11)

    def noise(step: int) -> Tensor:
        return torch.randn(B, 1, 1, generator=random, dtype=torch.float64)

    def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        a, b = schedule.signal_and_noise(t + 1, x)
        k, c = data.denoiser(schedule.abar[t[0] + 1].item())
        x_0 = k * x + c
        return objective.target(schedule, x_0, (x - a * x_0) / b, t + 1)

    states = solve(predict, plan, objective, noise(-1), noise)
    for state, (mean, variance) in zip(states, moments(plan, data, 0, 1)[1:].tolist(), strict=True):
        assert state.x.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / B))
        assert state.x.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / B))

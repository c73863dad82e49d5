import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ddiff.diffusion import X0, ClassifierFree, Eps, Flow, Plan, Schedule, V, solve
from ddiff.diffusion.schedules import (
    constant,
    cosine,
    flow,
    karras,
    linear,
    sigmoid,
    zero_terminal_snr,
)
from ddiff.diffusion.solvers import State, ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, heun, unipc
from ddiff.system.errors import ConfigError

SCHEDULES = [linear(), cosine(), sigmoid(), constant(), zero_terminal_snr(linear())]
SPACINGS = ["linear", "trailing", "quadratic", "logsnr"]
PLANS = {
    "ddpm": lambda s, n, **k: ddpm(s, n, **k),
    "ddpm beta": lambda s, n, **k: ddpm(s, n, variance="beta", **k),
    "ddim": ddim,
    "ddim eta 1": lambda s, n, **k: ddim(s, n, eta=1.0, **k),
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
}


def columns(plan: Plan) -> Tensor:
    return torch.stack(plan.coefficients, 1)


def assert_same(first: Plan, second: Plan, rows: slice = slice(None)) -> None:
    assert torch.equal(first.times[rows], second.times[rows])
    torch.testing.assert_close(columns(first)[rows], columns(second)[rows], rtol=1e-12, atol=1e-12)


def test_ddpm_is_the_posterior_of_the_paper():
    """Ho et al. 2020, Eq. 7, written with beta_t."""
    schedule = linear()
    t = torch.arange(1000, 0, -1)
    abar, abar_before = schedule.abar[t], schedule.abar[t - 1]
    beta = 1e-4 + (0.02 - 1e-4) * (t - 1).double() / 999
    plan = ddpm(schedule)
    torch.testing.assert_close(plan.x, (1 - beta).sqrt() * (1 - abar_before) / (1 - abar))
    torch.testing.assert_close(plan.x_0, abar_before.sqrt() * beta / (1 - abar))
    torch.testing.assert_close(plan.noise**2, (1 - abar_before) / (1 - abar) * beta)
    large = ddpm(schedule, variance="beta").noise ** 2
    torch.testing.assert_close(large[:-1], beta[:-1])
    assert large[-1] == 0
    assert not plan.x_0_previous.any()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 60])
@pytest.mark.parametrize("spacing", SPACINGS)
class TestEqualities:
    def test_ddim_with_eta_1_is_ddpm(self, schedule, num_steps, spacing):
        assert_same(
            ddim(schedule, num_steps, 1.0, spacing), ddpm(schedule, num_steps, spacing=spacing)
        )

    def test_sde_with_eta_0_is_dpmpp_2m(self, schedule, num_steps, spacing):
        assert_same(
            dpmpp_2m_sde(schedule, num_steps, 0.0, spacing), dpmpp_2m(schedule, num_steps, spacing)
        )

    def test_dpmpp_2m_starts_and_ends_as_ddim(self, schedule, num_steps, spacing):
        second, first = (f(schedule, num_steps, spacing=spacing) for f in (dpmpp_2m, ddim))
        assert_same(second, first, slice(1))
        assert columns(second)[-1].tolist() == pytest.approx([0, 1, 0, 0, 0], abs=1e-15)

    def test_sde_with_eta_1_starts_as_ddpm(self, schedule, num_steps, spacing):
        second, first = (f(schedule, num_steps, spacing=spacing) for f in (dpmpp_2m_sde, ddpm))
        assert_same(second, first, slice(1))

    @pytest.mark.parametrize("solver", PLANS)
    def test_every_plan_ends_at_the_estimate(self, schedule, num_steps, spacing, solver):
        plan = PLANS[solver](schedule, num_steps, spacing=spacing)
        assert len(plan) == num_steps
        assert columns(plan)[-1].tolist() == pytest.approx([0, 1, 0, 0, 0], abs=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_eta_1_over_all_times_is_ddpm_over_all_times(schedule):
    assert_same(ddim(schedule, schedule.T, eta=1.0), ddpm(schedule))
    assert len(ddpm(schedule)) == schedule.T


def test_second_order_weights_by_hand():
    """DPM-Solver++ 2M: D = (1 + 1 / 2r) x_0 - 1 / 2r x_0_previous, r = h_previous / h."""
    log_snr = torch.tensor([torch.inf, 6, 0, -2], dtype=torch.float64)  # lambda = inf, 3, 0, -1
    plan = dpmpp_2m(Schedule(torch.sigmoid(log_snr)), 3)
    h, r = 3, 1 / 3
    abar = 1 / (1 + math.exp(-6))
    gain = math.sqrt(abar) * (1 - math.exp(-h))
    expected = [math.sqrt((1 - abar) / 0.5), gain * (1 + 1 / (2 * r)), -gain / (2 * r), 0, 0]
    assert columns(plan)[1].tolist() == pytest.approx(expected, rel=1e-12)


def test_table_is_the_objective_beside_the_solver():
    schedule = Schedule(torch.tensor([1, 0.64, 0.36], dtype=torch.float64))
    plan = ddpm(schedule)
    assert torch.equal(plan.table(V())[:, [2, 3, 4, 5, 7]], columns(plan))
    assert plan.table(V())[:, 6].tolist() == [0, 0]
    guided = plan.guided_by(ClassifierFree(1.5))
    assert guided.table(V())[:, 6].tolist() == [1.5, 1.5]
    others = [0, 1, 2, 3, 4, 5, 7]
    assert torch.equal(guided.table(V())[:, others], plan.table(V())[:, others])
    pq = {kind: plan.table(kind())[:, :2].flatten().tolist() for kind in (Eps, X0, V)}
    assert pq[Eps] == pytest.approx([1 / 0.6, -0.8 / 0.6, 1 / 0.8, -0.6 / 0.8], rel=1e-14)
    assert pq[X0] == [0, 1, 0, 1]
    assert pq[V] == pytest.approx([0.6, -0.8, 0.8, -0.6], rel=1e-14)


def truthful(schedule: Schedule, objective, x_0: Tensor):
    """A net that knows x_0 and predicts whatever the objective asks; it is fed t - 1."""

    def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        assert t.dtype == torch.int64
        a, b = schedule.signal_and_noise(t + 1, x)
        return objective.target(schedule, x_0.to(x), (x - a * x_0.to(x)) / b, t + 1)

    return predict


@pytest.mark.parametrize("solver", PLANS)
@pytest.mark.parametrize(
    ("objective", "schedule"),
    [(objective, linear()) for objective in (Eps(), X0(), V())]
    + [(objective, zero_terminal_snr(linear())) for objective in (X0(), V())],
)
def test_solve_recovers_what_the_net_knows(schedule, objective, solver):
    x_0, x = torch.randn(2, 3, 1, 4, 5, dtype=torch.float64)
    plan = PLANS[solver](schedule, 9)
    states = list(
        solve(
            truthful(schedule, objective, x_0), plan, objective, x, lambda step: torch.ones(x.shape)
        )
    )
    assert [state.t for state in states] == plan.times[1:].tolist()
    for state in states:
        torch.testing.assert_close(state.x_0, x_0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(states[-1].x, x_0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", PLANS)
@pytest.mark.parametrize("num_steps", [7, 1000])
@pytest.mark.parametrize("objective", [X0(), V(), Eps()])
def test_float32_agrees_with_float64(solver, num_steps, objective):
    schedule = linear()
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(num_steps + 1, 64, 1, 2, generator=generator, dtype=torch.float64)

    def denoise(
        x: Tensor, t: Tensor, y: Tensor | None
    ) -> Tensor:  # of N(0.2, 0.5^2), in every precision
        a, b = schedule.signal_and_noise(t + 1, x)
        x_0 = 0.2 + a * 0.25 / (a * a * 0.25 + b * b) * (x - a * 0.2)
        return objective.target(schedule, x_0, (x - a * x_0) / b, t + 1)

    def sample(dtype: torch.dtype) -> Tensor:
        plan = PLANS[solver](schedule, num_steps)
        x = noise[-1].to(dtype)
        *_, last = solve(denoise, plan, objective, x, lambda step: noise[step].to(dtype))
        assert last.x.dtype == dtype
        return last.x

    difference = (sample(torch.float32).double() - sample(torch.float64)).abs().max().item()
    assert difference < 1e-5


class Recorder:
    """A net that says 2 everywhere, and a source of noise; both keep what they were asked."""

    def __init__(self) -> None:
        self.times: list[list[int]] = []
        self.steps: list[int] = []

    def predict(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.times.append(t.tolist())
        return torch.full_like(x, 2.0)

    def noise(self, step: int) -> Tensor:
        self.steps.append(step)
        return torch.ones(2, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("solver", "noisy"),
    [
        ("ddim", []),
        ("dpmpp_2m", []),
        ("unipc", []),
        ("ddpm", [0, 1, 2, 3]),
        ("dpmpp_2m_sde", [0, 1, 2, 3]),
    ],
)
def test_noise_is_drawn_only_where_needed_and_the_net_is_fed_t_minus_1(solver, noisy):
    plan, asked = PLANS[solver](linear(), 5, spacing="trailing"), Recorder()
    assert plan.stochastic == bool(noisy)
    x = torch.zeros(2, 1, dtype=torch.float64)
    list(solve(asked.predict, plan, X0(), x, asked.noise))
    assert asked.times == [[999] * 2, [799] * 2, [599] * 2, [399] * 2, [199] * 2]
    assert asked.steps == noisy  # the last step needs none


def test_solve_is_lazy():
    asked = Recorder()
    states = solve(asked.predict, ddpm(linear()), X0(), torch.zeros(2, 1), asked.noise)
    assert asked.times == []
    assert isinstance(next(states), State)
    assert len(asked.times) == 1
    assert asked.steps == [0]


@pytest.mark.parametrize(("clamp", "expected"), [(None, 2.0), (1.0, 1.0), (5.0, 2.0)])
def test_clamp_is_on_the_estimate(clamp, expected):
    asked, x = Recorder(), torch.zeros(2, 1, dtype=torch.float64)
    plan = dpmpp_2m(linear(), 6)
    mean = 0.0
    for i, state in enumerate(solve(asked.predict, plan, X0(), x, asked.noise, clamp)):
        assert state.x_0.flatten().tolist() == [expected] * 2
        a, b, c, *_ = columns(plan)[i].tolist()
        mean = a * mean + (b + c) * expected  # the previous estimate is the clamped one
        assert state.x.flatten().tolist() == pytest.approx([mean] * 2, rel=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: ddpm(s, 0), "must lie in 1..1000"),
        (lambda s: ddpm(s, variance="learned"), "'learned' is not one of beta, posterior"),
        (lambda s: ddim(s, eta=1.5), "solver.eta must lie in 0..1, not 1.5"),
        (lambda s: dpmpp_2m_sde(s, eta=-0.1), "solver.eta must lie in 0..1, not -0.1"),
        (lambda s: ddim(s, eta=float("nan")), "not nan"),
        (lambda s: dpmpp_2m(s, 2000), "not 2000"),
        (lambda s: ddim(s, spacing="cubic"), "'cubic' is not one of"),
    ],
)
def test_wrong_options_are_refused_in_one_line(build, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(linear())
    assert "\n" not in str(caught.value)


def mixture(abar: float, x: Tensor) -> Tensor:
    """E[x_0 | x] of two points, -1 with probability 0.3 and 1.5 with 0.7, in the normal form."""
    points = torch.tensor([-1.0, 1.5], dtype=torch.float64)
    logits = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    logits = logits - (x[..., None] - abar**0.5 * points) ** 2 / (2 * (1 - abar))
    return (logits.softmax(-1) * points).sum(-1)


def denoise(schedule: Schedule, objective):
    """The exact net of `mixture`."""

    def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        a, b = schedule.signal_and_noise(t + 1, x)
        x_0 = mixture(schedule.abar[t[0] + 1].item(), x)
        return objective.target(schedule, x_0, (x - a * x_0) / b, t + 1)

    return predict


@pytest.mark.parametrize(
    ("T", "num_steps", "spacing"),
    [(2, 2, "linear"), (18, 18, "linear"), (1000, 10, "karras")],  # whole times have Eq. 5's levels
)
def test_heun_is_the_sampler_of_edm_step_by_step(T, num_steps, spacing):
    """Karras et al. 2022, Algorithm 1 without noise, in their own coordinates."""
    schedule = karras(T)
    noise = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def denoiser(x: Tensor, sigma: float) -> Tensor:
        return mixture(1 / (1 + sigma**2), x / math.sqrt(1 + sigma**2))

    first, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
    falling = [first + i / (num_steps - 1) * (last - first) for i in range(num_steps)]
    levels = [*(root**7 for root in falling), 0.0]
    x = noise * math.sqrt(1 + levels[0] ** 2)
    path = []
    for sigma, after in pairwise(levels):
        d = (x - denoiser(x, sigma)) / sigma
        euler = x + (after - sigma) * d
        path.append(euler / math.sqrt(1 + after**2))
        x = euler
        if after:
            x = (
                x
                - (after - sigma) * d
                + (after - sigma) * (d + (euler - denoiser(euler, after)) / after) / 2
            )
            path.append(x / math.sqrt(1 + after**2))
    plan = heun(schedule, num_steps, line="sigma", spacing=spacing)
    states = list(solve(denoise(schedule, V()), plan, V(), noise))
    assert len(states) == len(plan) == 2 * num_steps - 1
    for state, expected in zip(states, path, strict=True):
        torch.testing.assert_close(state.x, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_ddim_and_heun_are_the_euler_and_heun_of_flows(num_steps):
    """Steps in u along the velocity eps - x_0, in the coordinates of the straight path."""
    schedule = flow(30)
    u = [1 - i / num_steps for i in range(num_steps + 1)]
    noise = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def length(u: float) -> float:
        return math.sqrt((1 - u) ** 2 + u**2)

    def velocity(x: Tensor, u: float) -> Tensor:
        x_0 = mixture((1 - u) ** 2 / length(u) ** 2, x / length(u))
        return (x - x_0) / u  # eps - x_0

    euler, corrected, path, both = noise, noise, [], []
    for now, after in pairwise(u):
        h = after - now
        euler = euler + h * velocity(euler, now)
        path.append(euler / length(after))
        first = velocity(corrected, now)
        guess = corrected + h * first
        both.append(guess / length(after))
        if after > 1e-9:
            corrected = corrected + h / 2 * (first + velocity(guess, after))
            both.append(corrected / length(after))
    for solver, expected in ((ddim, path), (heun, both)):
        plan = solver(schedule, num_steps, spacing="trailing")
        states = list(solve(denoise(schedule, Flow()), plan, Flow(), noise))
        for state, x in zip(states, expected, strict=True):
            torch.testing.assert_close(state.x, x, rtol=1e-10, atol=1e-10)


def expansions(h: float) -> tuple[float, float]:
    """Weights, of integrals of e^lambda over a step, of a parabola's linear and square part."""
    phi_1 = -math.expm1(-h)
    linear = (h - phi_1) / h / phi_1
    return linear, 2 * (linear * phi_1 / h - 0.5) / -phi_1


@pytest.mark.parametrize("schedule", [cosine(100), flow(100)])
@pytest.mark.parametrize("num_steps", [2, 3, 12])
def test_unipc_is_predictor_and_corrector_of_the_paper(num_steps, schedule):
    """Zhao et al. 2023, Algorithms 2 and 3 with B_2 (h), and the corrected state kept."""
    noise = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plan = unipc(schedule, num_steps, spacing="trailing")
    abar = schedule.abar[plan.times].tolist()
    levels = [(math.sqrt(a), math.sqrt(1 - a)) for a in abar]
    lambdas = [math.log(a / s) if a and s else math.copysign(math.inf, a - s) for a, s in levels]
    h = [after - now for now, after in pairwise(lambdas)]
    predicted = corrected = noise
    estimates, path = [], []
    for i in range(num_steps):
        estimates.append(mixture(abar[i], predicted))
        if i:  # UniC: from the corrected state before, through the new estimate too
            (_, sigma_t), (alpha, sigma) = levels[i - 1 : i + 1]
            now, last = estimates[i], estimates[i - 1]
            gain = alpha * -math.expm1(-h[i - 1])
            if i > 1 and math.isfinite(h[i - 2]):
                r = -h[i - 2] / h[i - 1]
                wanted = torch.tensor(expansions(h[i - 1]))
                rho = torch.linalg.solve(torch.tensor([[1.0, 1.0], [r, 1.0]]), wanted).tolist()
                bent = rho[0] / r * (estimates[i - 2] - last) + rho[1] * (now - last)
            else:
                bent = 0.5 * (now - last)
            corrected = sigma / sigma_t * corrected + gain * (last + bent)
        # UniP
        (_, sigma_t), (alpha, sigma) = levels[i : i + 2]
        bent = torch.zeros_like(noise)
        if i and all(map(math.isfinite, h[i - 1 : i + 1])):
            bent = h[i] / h[i - 1] / 2 * (estimates[i] - estimates[i - 1])
        predicted = sigma / sigma_t * corrected - alpha * math.expm1(-h[i]) * (estimates[i] + bent)
        path.append(predicted)
    states = list(solve(denoise(schedule, V()), plan, V(), noise))
    assert plan.memory == {2: 0, 3: 1, 12: 2}[num_steps]
    for state, expected in zip(states, path, strict=True):
        torch.testing.assert_close(state.x, expected, rtol=0, atol=1e-6)


def test_heun_refuses_what_it_cannot_step_in():
    with pytest.raises(ConfigError, match="ends in pure noise; use line=flow"):
        heun(flow(), 5, line="sigma")
    with pytest.raises(ConfigError, match="'x' is not one of flow, sigma"):
        heun(flow(), 5, line="x")

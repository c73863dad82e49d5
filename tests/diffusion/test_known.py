"""Samples of which something is known, against posteriors that are known exactly."""

from collections import deque
from collections.abc import Iterator

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from ddiff.diffusion import X0, ClassifierFree, Eps, Interval, Plan, Step, V, solve
from ddiff.diffusion.known import Coarse, Known, Part, Posterior, begun_at, with_jumps
from ddiff.diffusion.schedules import cosine, flow, linear, shifted
from ddiff.diffusion.solvers import State, ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, few, heun, unipc
from ddiff.system.errors import ConfigError

SOLVERS = {
    "ddpm": ddpm(cosine(), 9),
    "ddim": ddim(linear(), 9),
    "dpmpp_2m": dpmpp_2m(cosine(), 9),
    "sde": dpmpp_2m_sde(cosine(), 9),
    "heun": heun(flow(), 9),
    "unipc": unipc(cosine(), 9),
    "jumps": with_jumps(ddim(cosine(), 9), 2),
}


def last(states: Iterator[State]) -> Tensor:
    """The sample at the end of a solution."""
    return deque(states, maxlen=1).pop().x


def begun(plan: Plan, known: Known, noise: Tensor) -> Tensor:
    abar = plan.schedule.abar[plan.times[0]]
    return abar.sqrt() * known.guess + (1 - abar).sqrt() * noise


@pytest.mark.parametrize("plan", SOLVERS.values(), ids=SOLVERS)
def test_what_is_known_is_in_the_sample(plan):
    """Bit for bit for a part, to rounding for means; and the known part of x_t is y noised."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(4, 1, 4, 4, generator=generator) * 2 - 1
    values[:, :, 0] = 0
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, :2] = True
    part = Part(values, mask)
    noise = torch.randn(4, 1, 4, 4, generator=generator)

    def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return torch.tanh(x * 3 + t[0] / 500 - 1)  # anything

    x = last(solve(net, plan, V(), begun(plan, part, noise), known=part))
    assert torch.equal(x[:, :, :, :2], values[:, :, :, :2])
    coarse = Coarse(avg_pool2d(values, 2), 2)
    x = last(solve(net, plan, V(), begun(plan, coarse, noise), known=coarse))
    torch.testing.assert_close(avg_pool2d(x, 2), coarse.values, atol=1e-5, rtol=0)


def test_the_known_part_of_x_t_is_the_known_values_noised():
    plan = with_jumps(ddpm(cosine(), 12), 1)
    known = Part(torch.full((20_000, 1, 1, 2), 0.7), torch.tensor([[True, False]]))
    generator = torch.Generator().manual_seed(1)
    x = begun(plan, known, torch.randn(20_000, 1, 1, 2, generator=generator))
    torch.manual_seed(1)
    for state in solve(lambda x, t, y: 0 * x, plan, X0(), x, known=known):
        abar = plan.schedule.abar[state.t].item()
        part = state.x[..., 0]
        assert part.mean().item() == pytest.approx(0.7 * abar**0.5, abs=0.03)
        assert part.var().item() == pytest.approx(1 - abar, abs=0.04)


def test_means_of_volumes_are_kept_by_the_smallest_change():
    x_0 = torch.arange(64.0).view(1, 1, 4, 4, 4)
    coarse = Coarse(torch.zeros(1, 1, 2, 2, 2), 2)
    moved = coarse(x_0)
    assert avg_pool3d(moved, 2).abs().max() < 1e-5
    torch.testing.assert_close(avg_pool3d(x_0 - moved, 2), avg_pool3d(x_0, 2))  # all of a block
    assert (x_0 - moved)[0, 0, :2, :2, :2].std() == 0  # ... by the same
    assert torch.equal(coarse.guess, torch.zeros_like(x_0))


class TestJumps:
    def test_a_jump_is_a_step_and_the_noise_back(self):
        """One row at t of ddim: r (a x + b x_0) + sqrt(1 - r^2) noise; the last step has none."""
        plan = ddim(cosine(), 3)
        jumped = with_jumps(plan, 2)
        t = plan.times.tolist()
        assert jumped.times.tolist() == [t[0]] * 3 + [t[1]] * 3 + [t[2], 0]
        abar = plan.schedule.abar[plan.times]
        r = (abar[1] / abar[2]).sqrt()
        torch.testing.assert_close(jumped.x[3], r * plan.x[1])
        torch.testing.assert_close(jumped.x_0[4], r * plan.x_0[1])
        torch.testing.assert_close(jumped.noise[4], (1 - r**2).sqrt())
        for name in ("x", "x_0", "noise"):
            assert torch.equal(getattr(jumped, name)[[2, 5, 6]], getattr(plan, name))

    def test_of_a_plan_that_begins_in_the_middle(self):
        late = begun_at(ddpm(cosine(), 20), 400)
        jumped = with_jumps(late, 3)
        assert len(jumped) == 4 * (len(late) - 1) + 1
        assert jumped.times[0] == 400
        jumped.table(X0())

    def test_weights_of_guidance_stay_with_their_times(self):
        plan = ddim(cosine(), 4).guided_by(Interval(2.0, 0.1, 2.0))
        jumped = with_jumps(plan, 1)
        assert jumped.weights.tolist() == plan.weights[[0, 0, 1, 1, 2, 2, 3]].tolist()

    @pytest.mark.parametrize("plan", [dpmpp_2m(cosine(), 4), few(cosine(), 4)])
    def test_solvers_that_cannot(self, plan):
        with pytest.raises(ConfigError, match=r"^jumps: take .* solver=ddpm or solver=ddim$"):
            with_jumps(plan, 1)
        assert with_jumps(plan, 0) is plan


class TestBegunAt:
    def test_one_step_solvers_lose_rows(self):
        plan = ddim(cosine(), 10)
        late = begun_at(plan, 500)
        assert torch.equal(late.times, plan.times[5:])
        assert torch.equal(late.x_0, plan.x_0[5:])

    def test_multistep_solvers_begin_with_a_step_of_first_order(self):
        plan, first = dpmpp_2m(cosine(), 10, "trailing"), ddim(cosine(), 10)
        late = begun_at(plan, 599)
        assert late.times[0] == 500
        assert late.x_0_previous[0] == 0
        torch.testing.assert_close(late.x_0[0], first.x_0[5])
        assert torch.equal(late.x_0_previous[1:], plan.x_0_previous[6:])
        assert plan.x_0_previous[5] != 0  # the whole plan is as it was

    def test_unipc_looks_no_further_back_than_its_start(self):
        """The first two rows need no earlier estimates; the sums b + c + e stay."""
        plan = unipc(cosine(), 10)
        late = begun_at(plan, int(plan.times[3]))
        assert late.times.tolist() == plan.times[3:].tolist()
        assert late.x_0_before is not None
        assert late.x_0_before[:2].tolist() == [0, 0]
        assert late.x_0_previous[0] == 0
        sums = [sum(one.coefficients[1:3] + one.coefficients[4:]) for one in (late, plan)]
        torch.testing.assert_close(sums[0], sums[1][3:])
        assert torch.equal(late.x_0_before[2:], plan.coefficients[4][5:])

    def test_heun_begins_with_a_whole_step(self):
        plan = heun(flow(), 5, spacing="trailing")
        late = begun_at(plan, 600)
        assert late.times.tolist() == [600, 400, 400, 200, 200, 0]

    def test_too_little_noise(self):
        with pytest.raises(ConfigError, match=r"^strength: .* at least 0\.1$"):
            begun_at(ddim(cosine(), 10), 99)


RHO, Y = 0.8, 1.0  # x_0 ~ N(0, [[1, rho], [rho, 1]]), its first coordinate known


def law(plan: Plan) -> tuple[float, float]:
    """Mean and variance of the sampled second coordinate: every step is affine, so exactly."""
    C = torch.tensor([[1, RHO], [RHO, 1]], dtype=torch.float64)
    one, anew = torch.eye(2, dtype=torch.float64), torch.diag(torch.tensor([0.0, 1.0]).double())
    y = torch.tensor([Y, 0], dtype=torch.float64)
    abars = plan.schedule.abar[plan.times[:-1]]
    mean, covariance = abars[0].sqrt() * y, (1 - abars[0]) * one
    for row, abar in enumerate(abars):
        denoiser = abar.sqrt() * C @ torch.linalg.inv(abar * C + (1 - abar) * one)
        step = plan.x[row] * one + plan.x_0[row] * anew @ denoiser
        mean = step @ mean + plan.x_0[row] * y
        covariance = step @ covariance @ step.T + plan.noise[row] ** 2 * one
    return mean[1].item(), covariance[1, 1].item()


def test_jumps_lead_to_the_posterior_of_a_gaussian():
    """Truth: mean 0.8, variance 0.36. Without jumps what is known is half forgotten."""
    plan = ddpm(cosine(), 50, "beta")
    found = {jumps: law(with_jumps(plan, jumps)) for jumps in (0, 3, 20)}
    assert found[0] == pytest.approx((0.489, 0.555), abs=2e-3)
    assert found[3] == pytest.approx((0.708, 0.406), abs=2e-3)
    assert found[20] == pytest.approx((0.781, 0.370), abs=2e-3)


def ranks(jumps: int, pairs: int = 2000, draws: int = 9) -> Tensor:
    """Rank of the true second coordinate among samples that know the first, [pairs].

    Counted from below where the first coordinate is positive, else from above, so that samples
    that are drawn too little to what is known show.
    """
    plan = with_jumps(ddpm(cosine(), 50, "beta"), jumps)
    torch.manual_seed(0)
    truth = torch.randn(pairs, 2)
    truth[:, 1] = RHO * truth[:, 0] + (1 - RHO**2) ** 0.5 * truth[:, 1]
    values = truth.repeat_interleave(draws, 0)[:, None, None]
    known = Part(values, torch.tensor([True, False]))
    C = torch.tensor([[1, RHO], [RHO, 1]])

    def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        abar = plan.schedule.abar[int(t[0]) + 1].float()
        return x @ (abar.sqrt() * C @ torch.linalg.inv(abar * C + (1 - abar) * torch.eye(2)))

    x = begun(plan, known, torch.randn_like(values)).float()
    x = last(solve(net, plan, X0(), x, known=known))
    samples = x[:, 0, 0, 1].view(pairs, draws)
    below = (samples < truth[:, 1:]).sum(1)
    return torch.where(truth[:, 0] > 0, below, draws - below)


def test_ranks_of_the_truth_are_uniform_with_jumps_and_not_without():
    """Simulation-based calibration; and 4 of 5 truths lie in the middle 80% of ten ranks."""
    jumped, without = (torch.bincount(ranks(j), minlength=10) for j in (20, 0))
    assert chisquare(jumped.numpy()).pvalue > 0.01
    assert chisquare(without.numpy()).pvalue < 1e-6
    assert jumped[1:9].sum().item() / 2000 == pytest.approx(0.8, abs=0.03)


SIDE, FACTOR = 4, 2


class Smooth:
    """Normal pictures of 4 x 4 pixels, or volumes, smooth but for a hundredth of their variance,
    with their exact denoiser. The means of their blocks are known, with noise or without, or every
    second slice of a volume."""

    def __init__(self, noise: float = 0.0, dims: int = 2, slices: bool = False) -> None:
        self.shape, self.noise, self.slices = (1, *[SIDE] * dims), noise, slices
        at = torch.cartesian_prod(*[torch.arange(SIDE)] * dims).double()
        eye = torch.eye(SIDE**dims, dtype=torch.float64)
        self.C = 0.16 * (torch.exp(-(torch.cdist(at, at) ** 2) / 8) + 0.01 * eye)
        pool = avg_pool2d if dims == 2 else avg_pool3d
        self.mask = (torch.arange(SIDE) % 2 == 0).expand(self.shape[1:])
        blocks = pool(eye.view(-1, *self.shape), FACTOR).flatten(1).T
        self.A = eye[self.mask.flatten()] if slices else blocks
        spread = self.A @ self.C @ self.A.T + noise**2 * torch.eye(len(self.A)).double()
        self.gain = self.C @ self.A.T @ torch.linalg.inv(spread)  # posterior mean = gain y
        self.posterior = self.C - self.gain @ self.A @ self.C

    def truths(self, number: int) -> Tensor:
        return torch.randn(number, len(self.C)).double() @ torch.linalg.cholesky(self.C).T

    def means(self, x: Tensor) -> Tensor:
        return x @ self.A.T + self.noise * torch.randn(len(x), len(self.A)).double()

    def denoiser(self, schedule) -> list[Tensor]:
        eye = torch.eye(len(self.C), dtype=torch.float64)
        return [a.sqrt() * self.C @ torch.linalg.inv(a * self.C + (1 - a) * eye)
                for a in schedule.abar]  # fmt: skip

    def known(self, y: Tensor) -> Known:
        if not self.slices:
            return Coarse(y.view(-1, 1, *[side // FACTOR for side in self.shape[1:]]), FACTOR)
        return Part((y @ self.A).view(-1, *self.shape), self.mask)

    def drawn(self, y: Tensor, plan: Plan, iterations: int) -> Tensor:
        """A sample for each of the rows y [B, K]."""
        by_time = self.denoiser(plan.schedule)

        def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return (x.flatten(1) @ by_time[int(t[0]) + 1]).view_as(x)

        known = self.known(y)
        noise = torch.randn(len(y), *self.shape).double()
        rule = Posterior(known, plan, X0(), ClassifierFree(), iterations, self.noise)
        exact = None if self.noise else known
        x = last(solve(net, plan, X0(), begun(plan, known, noise), guidance=rule, known=exact))
        return x.flatten(1)


class TestPosterior:
    @pytest.mark.parametrize("solver", [dpmpp_2m, unipc, ddpm, heun])
    @pytest.mark.parametrize("noise", [0.0, 0.2])
    def test_of_a_gaussian_has_its_mean_and_covariance(self, solver, noise):
        """Within the error that 4,000 samples leave and 3% of the spread for the solver."""
        torch.manual_seed(0)
        law = Smooth(noise)
        y = law.means(law.truths(1))
        plan = ddpm(cosine(), 100, "beta") if solver is ddpm else solver(cosine(), 30)
        x = law.drawn(y.expand(4000, -1), plan, 4)
        spread = law.posterior.diagonal().sqrt()
        assert ((x.mean(0) - law.gain @ y[0]) / spread).abs().max() < 0.07
        assert (x.std(0) / spread - 1).abs().max() < 0.06
        if not noise:
            torch.testing.assert_close(x @ law.A.T, y.expand(4000, -1), atol=1e-9, rtol=0)

    @pytest.mark.parametrize(
        ("slices", "iterations", "low", "high"),
        [(False, 5, 0, 0.1), (True, 0, 2, 3), (True, 5, 0.12, 0.3), (True, 12, 0, 0.1)],
    )
    def test_of_a_gaussian_volume(self, slices, iterations, low, high):
        """The largest error of the mean, in deviations, where blocks or every second slice are
        known: in fewer directions than 32 lies nearly all of what 32 voxels tell."""
        torch.manual_seed(0)
        law = Smooth(dims=3, slices=slices)
        y = law.means(law.truths(1))
        x = law.drawn(y.expand(2000, -1), dpmpp_2m(cosine(), 30), iterations)
        spread = law.posterior.diagonal().clamp(min=0).sqrt()
        free = spread > 0.01
        assert int(free.sum()) == (32 if slices else 64)
        off = ((x.mean(0) - law.gain @ y[0])[free] / spread[free]).abs()
        assert low <= off.max() < high
        if iterations:
            assert (x.std(0)[free] / spread[free] - 1).abs().max() < 0.1
        torch.testing.assert_close(x @ law.A.T, y.expand(2000, -1), atol=1e-9, rtol=0)

    def test_ranks_of_the_truth_are_uniform(self):
        """Of a difference within a block, which only neighbouring blocks tell of; counted towards
        the posterior mean."""
        torch.manual_seed(1)
        law, plan = Smooth(), dpmpp_2m(cosine(), 25)
        truths = law.truths(2000)
        y = law.means(truths)
        across = torch.zeros(SIDE**2, dtype=torch.float64)
        across[[0, 1]] = torch.tensor([-1.0, 1.0]).double()
        towards = torch.sign(y @ law.gain.T @ across)
        found = {}
        for iterations in (0, 4):
            x = law.drawn(y.repeat_interleave(9, 0), plan, iterations)
            below = (x @ across).view(2000, 9) < (truths @ across)[:, None]
            rank = torch.where(towards > 0, below.sum(1), 9 - below.sum(1))
            found[iterations] = torch.bincount(rank, minlength=10)
        assert chisquare(found[4].numpy()).pvalue > 0.01
        assert found[4][1:9].sum().item() / 2000 == pytest.approx(0.8, abs=0.03)
        assert chisquare(found[0].numpy()).pvalue < 1e-6  # of replacing alone

    def test_is_the_formula(self):
        """One step with four iterations is x_0 + V A^T (A V A^T + noise^2)^-1 (y - A x_0)."""
        torch.manual_seed(2)
        law, plan = Smooth(0.3), ddpm(cosine(), 5)
        D = law.denoiser(plan.schedule)[int(plan.times[2])]
        x, y = torch.randn(2, SIDE**2).double(), torch.randn(2, 4).double()
        abar = plan.schedule.abar[plan.times[2]]
        V_ = (1 - abar) / abar.sqrt() * D
        rest = (y - x @ D @ law.A.T).T
        inverse = torch.linalg.inv(law.A @ V_ @ law.A.T + 0.09 * torch.eye(4).double())
        wanted = x @ D + (V_ @ law.A.T @ inverse @ rest).T

        def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:  # predicts eps
            x_0 = (x.flatten(1) @ D).view_as(x)
            return (x - abar.sqrt() * x_0) / (1 - abar).sqrt()

        known = Coarse(y.view(2, 1, 2, 2), 2)
        rule = Posterior(known, plan, Eps(), ClassifierFree(), 4, 0.3)
        pred = rule(net, x.view(2, 1, 4, 4), torch.zeros(2), None, Step(2, 0.0)).flatten(1)
        found = (x - (1 - abar).sqrt() * pred) / abar.sqrt()
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)

    def test_of_a_part(self):
        """Two numbers with correlation 0.8, the first known to be 1: 0.8 and 0.36."""
        plan = dpmpp_2m(cosine(), 30)
        C = torch.tensor([[1, RHO], [RHO, 1]])
        values = torch.tensor([[[[Y, float("nan")]]]]).expand(8000, 1, 1, 2)
        known = Part(values, torch.tensor([True, False]))

        def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            abar = plan.schedule.abar[int(t[0]) + 1].float()
            return x @ (abar.sqrt() * C @ torch.linalg.inv(abar * C + (1 - abar) * torch.eye(2)))

        torch.manual_seed(0)
        rule = Posterior(known, plan, X0(), ClassifierFree(), 1)
        x = begun(plan, known, torch.randn(8000, 1, 1, 2)).float()
        x = last(solve(net, plan, X0(), x, guidance=rule, known=known))
        assert x[..., 0].unique().tolist() == [Y]
        assert x[..., 1].mean().item() == pytest.approx(0.8, abs=0.02)
        assert x[..., 1].var().item() == pytest.approx(0.36, abs=0.02)

    def test_a_net_without_a_use_for_x_is_left_alone(self):
        """A derivative of 0 or below explains nothing: the estimate stays, without NaN."""
        plan = ddpm(cosine(), 5)
        known = Coarse(torch.ones(2, 1, 2, 2), 2)
        x, t = torch.randn(2, 1, 4, 4), torch.zeros(2)
        for slope in (0.0, -1.0):
            rule = Posterior(known, plan, X0(), ClassifierFree(), 3)
            pred = rule(lambda x, t, y, s=slope: 0.1 + s * x, x, t, None, Step(1, 0.0))
            torch.testing.assert_close(pred, 0.1 + slope * x)


def test_discs_whose_inside_is_known():
    """Discs of 12 radii; where the inner half is known and full, the radius is one of the larger
    ones, each as likely. The net is exact. Samples are discs, which jumps make likelier."""
    n, schedule = 12, shifted(cosine(), 0.1)
    at = torch.arange(n) - (n - 1) / 2
    distance = (at[:, None] ** 2 + at**2).sqrt()
    radii = distance.unique()[1::2][:8]  # [8]
    discs = torch.where(distance <= radii[:, None, None], 1.0, -1.0)[:, None]
    flat = discs.flatten(1)

    def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        abar = schedule.abar[int(t[0]) + 1].float()
        far = (x.flatten(1)[:, None] - abar.sqrt() * flat).square().sum(2)
        return ((-far / (2 - 2 * abar)).softmax(1) @ flat).view_as(x)

    inside = distance < radii[3]
    found = {}
    for jumps in (0, 10):
        plan = with_jumps(ddpm(schedule, 40, "beta"), jumps)
        torch.manual_seed(0)
        known = Part(discs[-1:].expand(400, -1, -1, -1), inside)
        x = begun(plan, known, torch.randn(400, 1, n, n)).float()
        x = last(solve(net, plan, X0(), x, known=known))
        off = (x.flatten(1)[:, None] - flat).abs().amax(2)
        assert (off.amin(1) < 0.1).float().mean() > 0.9  # discs
        found[jumps] = torch.bincount(off.argmin(1), minlength=8)[3:] / 400  # 1/5 each is right
    assert found[0].max() == pytest.approx(0.405, abs=0.05)
    assert found[10].max() == pytest.approx(0.25, abs=0.05)
    assert found[10].min() == pytest.approx(0.16, abs=0.05)

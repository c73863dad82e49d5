import pytest
import torch
from torch import Tensor

from ddiff.diffusion import (
    NO_LABEL,
    X0,
    ClassifierFree,
    Eps,
    Guidance,
    Interval,
    Objective,
    Plan,
    Step,
    V,
    solve,
)
from ddiff.diffusion.guidance import Weaker, combines_two, guidance_from
from ddiff.diffusion.schedules import linear, zero_terminal_snr
from ddiff.diffusion.solvers import ddim
from ddiff.system.errors import ConfigError

SCHEDULE = linear()
MEANS = {0: -1.0, 1: 0.5, NO_LABEL: -0.25}


class GaussianNet:
    """The exact net of x_0 | y ~ N(MEANS[y], 1): eps = sigma (x_t - alpha m). Counts its work."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.batches: list[int] = []
        self.labels: list[list[int] | None] = []

    def eps(self, x: Tensor, t: Tensor, means: list[float]) -> Tensor:
        a, b = SCHEDULE.signal_and_noise(t + 1, x)
        return b * (x - a * torch.tensor(means, dtype=x.dtype).view(-1, 1, 1))

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.batches.append(len(x))
        self.labels.append(None if y is None else y.tolist())
        a, b = SCHEDULE.signal_and_noise(t + 1, x)
        labels = [NO_LABEL] * len(x) if y is None else y.tolist()
        eps = self.eps(x, t, [MEANS[label] for label in labels])
        return self.objective.target(SCHEDULE, (x - b * eps) / a, eps, t + 1)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([999, 400, 0]), torch.tensor([0, 1, 0])


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
@pytest.mark.parametrize("objective", [Eps(), X0(), V()])
def test_every_objective_guides_eps(objective, scale):
    """eps = (1 + w) eps(x, t, y) - w eps(x, t, none)."""
    x, t, y = batch()
    net = GaussianNet(objective)
    pred = ClassifierFree(scale)(net, x, t, y, Step(3, scale))
    with_y = net.eps(x, t, [MEANS[label] for label in y.tolist()])
    expected = (1 + scale) * with_y - scale * net.eps(x, t, [MEANS[NO_LABEL]] * 3)
    got = objective.to_eps(SCHEDULE, x, pred, t + 1)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_guidance_moves_the_mean_by_the_scale():
    """For equal variances (1 + w) - w is a shift: the mean becomes (1 + w) m_y - w m_none."""
    x, t, y = batch()
    net = GaussianNet(Eps())
    pred = ClassifierFree(2.0)(net, x, t, y, Step(0, 2.0))
    shifted = [3 * MEANS[label] - 2 * MEANS[NO_LABEL] for label in y.tolist()]
    torch.testing.assert_close(pred, net.eps(x, t, shifted), rtol=1e-12, atol=1e-12)


def test_scale_0_costs_one_evaluation():
    x, t, y = batch()
    net = GaussianNet(Eps())
    pred = ClassifierFree()(net, x, t, y, Step(0, 0.0))
    assert net.batches == [3]
    assert net.labels == [[0, 1, 0]]
    assert torch.equal(pred, GaussianNet(Eps())(x, t, y))


def test_a_scale_puts_both_halves_into_one_batch():
    x, t, y = batch()
    net = GaussianNet(Eps())
    ClassifierFree(1.5)(net, x, t, y, Step(0, 1.5))
    assert net.batches == [6]
    assert net.labels == [[0, 1, 0] + [NO_LABEL] * 3]


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_without_labels_there_is_nothing_to_guide(scale):
    x, t, _ = batch()
    net = GaussianNet(V())
    pred = ClassifierFree(scale)(net, x, t, None, Step(0, scale))
    assert net.batches == [3]
    assert net.labels == [None]
    assert torch.equal(pred, GaussianNet(V())(x, t, None))


@pytest.mark.parametrize("scale", [-0.1, float("nan")])
def test_a_negative_scale_is_refused_in_one_line(scale):
    with pytest.raises(ConfigError, match=f"must be 0 or more, not {scale}") as caught:
        ClassifierFree(scale)
    assert "\n" not in str(caught.value)


def test_guidance_without_labels_is_refused():
    ClassifierFree(0.0).check(False, "none")
    ClassifierFree(2.0).check(True, [3, 5])
    with pytest.raises(ConfigError, match=r"2 guides towards labels, and this net has none"):
        ClassifierFree(2.0).check(False)
    for y in (None, "none"):
        with pytest.raises(ConfigError, match=r"y=none gives none; use guidance=none"):
            ClassifierFree(2.0).check(True, y)


def test_an_interval_is_a_table_of_weights():
    sigma = SCHEDULE.sigma
    interval = Interval(2.0, sigma[200].item(), sigma[600].item())
    plan = ddim(SCHEDULE, 5).guided_by(interval)
    assert plan.times.tolist() == [1000, 800, 600, 400, 200, 0]
    assert plan.weights.tolist() == [0, 0, 2, 2, 0]  # above the low end, up to the high one
    net, x = GaussianNet(Eps()), torch.zeros(3, 1, 2, dtype=torch.float64)
    y = torch.tensor([0, 1, 0])
    list(solve(net, plan, Eps(), x, lambda step: x, y=y, guidance=interval))
    assert net.batches == [3, 3, 6, 6, 3]
    assert combines_two(interval)


def test_an_interval_of_all_levels_is_plain_guidance():
    assert Interval(2.0, 0.0, 1e9).weights(ddim(SCHEDULE, 7)).tolist() == [2.0] * 7
    zero = ddim(zero_terminal_snr(SCHEDULE), 7)
    assert Interval(2.0, 0.0, 1e9).weights(zero).tolist() == [0.0] + [2.0] * 6  # infinite noise


@pytest.mark.parametrize(("low", "high"), [(3.0, 3.0), (-1.0, 2.0), (float("nan"), 2.0)])
def test_an_empty_interval_is_refused(low, high):
    with pytest.raises(ConfigError, match=f"sigma_low {low:g} must lie below sigma_high {high:g}"):
        Interval(2.0, low, high)


def test_solve_asks_a_guidance_of_ones_own_in_every_step():
    asked: list[Step] = []

    class Own(Guidance):
        def weights(self, plan: Plan) -> Tensor:
            return torch.arange(len(plan)).double()

        def __call__(self, net, x, t, y, step) -> Tensor:
            asked.append(step)
            return 0.5 * net(x, t, y)

    def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return torch.full_like(x, 4.0)

    x = torch.zeros(2, 1)
    *_, last = solve(net, ddim(SCHEDULE, 3), X0(), x, lambda step: x, guidance=Own())
    assert asked == [Step(0, 0.0), Step(1, 1.0), Step(2, 2.0)]
    assert last.x.flatten().tolist() == [2.0, 2.0]
    assert not combines_two(Own())


def test_a_plain_function_is_guidance_too():
    half = guidance_from(lambda net, x, t, y, step: 0.5 * net(x, t, y))
    assert half(lambda x, t, y: x, torch.ones(2), torch.zeros(2), None, Step(0, 0.0)).sum() == 1
    assert half.weights(ddim(SCHEDULE, 3)).tolist() == [0, 0, 0]
    assert guidance_from(ClassifierFree(1.0)) == ClassifierFree(1.0)


def test_a_weaker_net_guides_without_labels():
    """(1 + w) net - w weaker, both exact nets of N(m, 1): the mean moves to (1 + w) m - w m'."""
    x, t, _ = batch()
    net, weaker = GaussianNet(Eps()), GaussianNet(Eps())
    guidance = Weaker(2.0, weaker=lambda x, t, y: weaker(x, t, torch.zeros(3, dtype=torch.int64)))
    pred = guidance(net, x, t, None, Step(0, 2.0))
    moved = 3 * MEANS[NO_LABEL] - 2 * MEANS[0]
    torch.testing.assert_close(pred, net.eps(x, t, [moved] * 3), rtol=1e-12, atol=1e-12)
    assert (net.batches, weaker.batches) == ([3], [3])
    assert guidance.asks_twice(labelled=False)
    assert not combines_two(guidance)


def test_a_weaker_net_of_weight_0_is_not_asked():
    x, t, y = batch()
    net = GaussianNet(V())
    assert torch.equal(Weaker(0.0)(net, x, t, y, Step(0, 0.0)), GaussianNet(V())(x, t, y))
    assert net.batches == [3]

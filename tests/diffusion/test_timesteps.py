import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import chi2, norm
from torch import Tensor

from ddiff.diffusion.schedules import constant, flow, karras
from ddiff.diffusion.timesteps import (
    All,
    LogitNormal,
    LogNormal,
    Stratified,
    TimestepSampler,
    Uniform,
)
from ddiff.system.errors import ConfigError
from ddiff.system.random import generator

DRAWS = 1_000_000
SAMPLERS = [Uniform, Stratified, LogitNormal, LogNormal]


def counts(t: Tensor, T: int) -> Tensor:
    """How often each of 1..T was drawn, [T] float64."""
    found = torch.bincount(t, minlength=T + 1)
    assert len(found) == T + 1
    assert found[0] == 0
    return found[1:].double()


def p_value(observed: Tensor, expected: Tensor, groups: int = 1) -> float:
    """Chi-square, with one degree of freedom less for each total that is given."""
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    return chi2.sf(statistic, observed.numel() - groups)


def logit_normal_law(T: int, mean: float, std: float) -> Tensor:
    """P(t <= k) = Phi((logit(k / T) - mean) / std), [T]."""
    edges = torch.arange(1, T, dtype=torch.float64) / T
    cdf = norm.cdf((torch.logit(edges).numpy() - mean) / std)
    return torch.tensor([0.0, *cdf, 1.0], dtype=torch.float64).diff()


@pytest.mark.parametrize("T", [1, 2, 7, 100, 1000])
def test_uniform_law(T):
    t, _ = Uniform(constant(T, 0.01)).sample(DRAWS, generator("cpu", "uniform", T))
    observed = counts(t, T)
    if T == 1:
        assert observed.tolist() == [DRAWS]
    else:
        assert p_value(observed, torch.full((T,), DRAWS / T)) > 1e-4


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.6), (-1.0, 2.0)])
@pytest.mark.parametrize("T", [10, 100])
def test_logit_normal_law(T, mean, std):
    t, _ = LogitNormal(constant(T, 0.01), mean, std).sample(DRAWS, generator("cpu", "logit", T))
    expected, observed = logit_normal_law(T, mean, std) * DRAWS, counts(t, T)
    often = expected > 20  # the chi-square law needs full cells; the rest make one more
    cells = [torch.cat([x[often], x[~often].sum()[None]]) for x in (observed, expected)]
    if cells[1][-1] < 20:
        assert cells[0][-1] < 60
        cells = [x[:-1] for x in cells]
    assert p_value(*cells) > 1e-4


@pytest.mark.parametrize("schedule", [karras(40), flow(40)])
def test_log_normal_law(schedule):
    """ln sigma ~ N(-1.2, 1.2^2), each draw at the nearest timestep (Karras et al. 2022)."""
    sampler = LogNormal(schedule)
    t, _ = sampler.sample(DRAWS, generator("cpu", "log-normal", schedule.T))
    sigmas = [math.sqrt((1 - a) / a) if a else math.inf for a in schedule.abar[1:].tolist()]
    edges = [math.log(a) / 2 + math.log(b) / 2 for a, b in pairwise(sigmas)]
    cdf = [0, *norm.cdf([(edge + 1.2) / 1.2 for edge in edges]), 1]
    expected = torch.tensor(cdf, dtype=torch.float64).diff()
    torch.testing.assert_close(sampler.law().double(), expected, rtol=0, atol=1e-6)
    often = expected * DRAWS > 20
    assert often.sum() > 10
    assert p_value(counts(t, schedule.T)[often], expected[often] * DRAWS) > 1e-4


@pytest.mark.parametrize("extreme", [-40.0, 40.0])
def test_logit_normal_stays_within_1_and_T_where_the_sigmoid_saturates(extreme):
    t, _ = LogitNormal(constant(50), extreme, 5.0).sample(1000, generator("cpu", "far"))
    assert t.unique().tolist() == [50 if extreme > 0 else 1]


@pytest.mark.parametrize(("N", "T"), [(10, 1000), (25, 100), (125, 1000), (500, 1000)])
def test_stratified_draws_once_in_every_stratum(N, T):
    """T is a multiple of the batch size N: stratum i is the T / N times after i T / N."""
    sampler = Stratified(constant(T, 0.01))
    for step in range(200):
        t, _ = sampler.sample(N, generator("cpu", "s", step))
        assert ((t - 1) // (T // N)).tolist() == list(range(N))


def test_stratified_law_within_the_strata():
    """Within each stratum t is uniform: a chi-square with N given totals."""
    T, N, steps = 200, 50, 20_000
    sampler, random = Stratified(constant(T, 0.01)), generator("cpu", "law")
    t = torch.cat([sampler.sample(N, random)[0] for _ in range(steps)])
    observed = counts(t, T)
    assert observed.view(N, T // N).sum(1).tolist() == [steps] * N
    assert p_value(observed, torch.full((T,), steps * N / T), groups=N) > 1e-4


@pytest.mark.parametrize(("N", "T"), [(7, 10), (64, 10), (3, 1000), (1, 5)])
def test_stratified_law_where_strata_and_times_do_not_match(N, T):
    sampler, random = Stratified(constant(T, 0.01)), generator("cpu", "mismatch", N, T)
    t = torch.stack([sampler.sample(N, random)[0] for _ in range(5000)])
    observed = counts(t.flatten(), T) / len(t)  # its mean is N / T, its variance at most N / T
    assert (observed - N / T).abs().max() < 5 * math.sqrt(N / T / len(t))
    i = torch.arange(N)
    lower, upper = i * T // N + 1, ((i + 1) * T - 1) // N + 1  # the times that stratum i touches
    assert ((t >= lower) & (t <= upper)).all()


def test_stratified_has_the_least_variance():
    """Mean of t / T over a batch of N: the variance falls from 1 / 12 N to 1 / 12 N^3."""
    T, N, steps = 10_000, 16, 4000
    variance = {}
    for kind in (Uniform, Stratified):
        random = generator("cpu", "variance")
        sampler = kind(constant(T, 0.01))
        means = [sampler.sample(N, random)[0].double().mean() / T for _ in range(steps)]
        variance[kind] = torch.stack(means).var().item()
    spread = 5 * math.sqrt(2 / steps)
    assert variance[Uniform] == pytest.approx(1 / (12 * N), rel=spread)
    assert variance[Stratified] == pytest.approx(1 / (12 * N**3), rel=spread)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_weights_are_one(kind):
    t, weights = kind(constant(1000, 0.01)).sample(512, generator("cpu", 0))
    assert t.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert weights.tolist() == [1.0] * 512


@pytest.mark.parametrize(
    ("kind", "unbiased"),
    [(Uniform, True), (Stratified, True), (LogitNormal, False), (LogNormal, False)],
)
def test_unbiased_flags_are_true_to_the_law(kind, unbiased):
    """Unbiased: E[weight f(t)] is the mean of f over 1..T, here of f = (t / T)^2."""
    assert kind.unbiased is unbiased
    T = 100
    t, weights = kind(constant(T, 0.01)).sample(DRAWS, generator("cpu", "flag"))
    got = (weights * (t / T) ** 2).double().mean().item()
    uniform = sum((k / T) ** 2 for k in range(1, T + 1)) / T
    noise = 5 * 0.3 / math.sqrt(DRAWS)
    assert (abs(got - uniform) < noise) is unbiased


@pytest.mark.parametrize("kind", SAMPLERS)
def test_no_state_beyond_the_generator(kind):
    """The same key gives the same draws, whatever came before, and losses teach nothing."""
    sampler: TimestepSampler = kind(constant(1000, 0.01))
    assert list(sampler.state_dict()) == []
    first, _ = sampler.sample(64, generator("cpu", 1, "t", 5))
    sampler.update(first, torch.rand(64), torch.ones(64))
    sampler.sample(64, generator("cpu", 1, "t", 6))
    again, _ = sampler.sample(64, generator("cpu", 1, "t", 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, sampler.sample(64, generator("cpu", 1, "t", 6))[0])


@pytest.mark.parametrize(
    "options", [{"std": 0.0}, {"std": -1.0}, {"std": math.nan}, {"mean": math.inf}]
)
def test_wrong_options_are_refused_in_one_line(options):
    with pytest.raises(ConfigError, match="must be finite and std") as caught:
        LogitNormal(constant(100), **options)
    assert "\n" not in str(caught.value)


def test_all_takes_every_timestep_once_a_sample_and_refuses_many():
    sampler = All(constant(7, 0.01))
    t, weights = sampler.sample(21, generator("cpu", "all"))
    assert counts(t, 7).tolist() == [3] * 7
    assert weights.tolist() == [1] * 21
    assert sampler.copies == 7
    words = r"schedule's 101 timesteps .* 100 or fewer: schedule.T=100"
    with pytest.raises(ConfigError, match=words):
        All(constant(101, 0.01))

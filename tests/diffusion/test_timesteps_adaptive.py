"""Samplers that learn, and those with a law of their own, against closed forms and plain loops."""

import json
import math
from collections import deque

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ddiff.diffusion.schedules import constant, cosine, linear, shifted
from ddiff.diffusion.timesteps import (
    LogitNormal,
    LossSecondMoment,
    OnlineTopK,
    PrecomputedTopK,
    Speed,
    SpeedReleased,
    Stratified,
    StratifiedImportance,
    TimestepSampler,
    Uncertainty,
    Uniform,
    effective_sample_size,
)
from ddiff.diffusion.timesteps.bins import Averages, Bins
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.random import generator

DRAWS = 250_000
T = 60
SCHEDULE = constant(T, 0.05)
LOSS = torch.linspace(1.0, 3.0, T) ** 2  # of t = 1..T
ADAPTIVE = {
    "online_topk": lambda: OnlineTopK(SCHEDULE, k=0.3, bins=10),
    "online_topk_corrected": lambda: OnlineTopK(SCHEDULE, k=3, bins=None, correct=True),
    "loss_second_moment": lambda: LossSecondMoment(SCHEDULE, bins=12, epsilon=0.1),
    "stratified_importance": lambda: StratifiedImportance(SCHEDULE, bins=7),
}
FIXED = {
    "uniform": lambda: Uniform(SCHEDULE),
    "stratified": lambda: Stratified(SCHEDULE),
    "logit_normal": lambda: LogitNormal(SCHEDULE),
    "speed": lambda: Speed(SCHEDULE),
    "speed_released": lambda: SpeedReleased(SCHEDULE),
}
ALL = {**ADAPTIVE, **FIXED}


def taught(make, rounds: int = 12) -> TimestepSampler:
    """A sampler that has seen LOSS at every t, `rounds` times."""
    sampler = make()
    t = torch.arange(1, T + 1).repeat(rounds)
    sampler.update(t, LOSS[t - 1], torch.ones(len(t)))
    return sampler


def binned(values: Tensor, number: int) -> Tensor:
    """Mean of values [T] over each of `number` bins, spread over the bin again, by a plain loop."""
    of = [i * number // len(values) for i in range(len(values))]
    means = {n: values[[i for i, b in enumerate(of) if b == n]].mean() for n in of}
    return torch.stack([means[n] for n in of])


def drawn(
    sampler: TimestepSampler, batch_size: int, name: str, number: int = DRAWS
) -> tuple[Tensor, Tensor]:
    g = generator("cpu", "law", name)
    draws = [sampler.sample(batch_size, g) for _ in range(number // batch_size)]
    return torch.cat([t for t, _ in draws]), torch.cat([w for _, w in draws])


def p_value(t: Tensor, law: Tensor) -> float:
    observed = torch.bincount(t, minlength=len(law) + 1)[1:].double()
    expected = law.double() * len(t)
    assert (observed[expected == 0] == 0).all()
    often = expected > 0
    statistic = ((observed - expected)[often] ** 2 / expected[often]).sum().item()
    return chi2.sf(statistic, int(often.sum()) - 1)


def mixture(share: Tensor, epsilon: float) -> Tensor:
    return (1 - epsilon) * share / share.sum() + epsilon / T


EXPECTED = {  # by plain means over the bins
    "online_topk": mixture((torch.arange(T) >= 42).float(), 0.1),  # the last 3 of 10 bins of 6
    "online_topk_corrected": mixture((torch.arange(T) >= T - 3).float(), 0.1),
    "loss_second_moment": mixture(binned(LOSS, 12), 0.1),  # nearly: see the tolerance
    "stratified_importance": mixture(binned(LOSS, 7).sqrt(), 0.2),
}


@pytest.mark.parametrize("name", ALL)
def test_a_million_draws_follow_the_stated_law(name):
    sampler = taught(ALL[name])
    batch = 10_000 if "stratified" in name else DRAWS  # strata: less variance, never more
    t, weights = drawn(sampler, batch, name)
    law = sampler.law()
    assert law.sum().item() == pytest.approx(1, abs=2e-6)
    assert p_value(t, law) > 1e-4
    assert torch.equal(weights, sampler.weights(law)[t - 1])


@pytest.mark.parametrize("name", EXPECTED)
def test_the_law_is_what_the_losses_say(name):
    sampler = taught(ADAPTIVE[name])
    # a moving average of what comes in the order of t leans to the later t of a bin
    near = {"loss_second_moment": 0.02, "stratified_importance": 0.04}.get(name, 1e-6)
    assert sampler.law() == pytest.approx(EXPECTED[name], rel=near)


def test_without_exploration_topk_draws_the_k_best_and_nothing_else():
    sampler = taught(lambda: OnlineTopK(SCHEDULE, k=4, bins=None, epsilon=0.0))
    t, weights = drawn(sampler, DRAWS, "only")
    assert t.unique().tolist() == [57, 58, 59, 60]
    assert weights.unique().tolist() == [1.0]
    assert p_value(t, torch.tensor([0.0] * 56 + [0.25] * 4)) > 1e-4


@pytest.mark.parametrize("name", ADAPTIVE)
def test_uniform_until_every_bin_has_been_seen(name):
    sampler = ADAPTIVE[name]()
    t = torch.arange(1, T).repeat(12)  # all but T, whose bin is its own where bins is null
    t = t[sampler.bins.of[t - 1] < sampler.bins.number - 1]
    sampler.update(t, LOSS[t - 1], torch.ones(len(t)))
    assert sampler.law().tolist() == pytest.approx([1 / T] * T, rel=1e-6)
    assert float(sampler.exploration()) == 1
    t = torch.full((10,), T)
    sampler.update(t, LOSS[t - 1], torch.ones(10))
    assert sampler.law().max() > 1.2 / T
    assert float(sampler.exploration()) == pytest.approx(sampler.epsilon)


@pytest.mark.parametrize("name", ALL)
def test_unbiased_samplers_restore_the_uniform_mean(name, record_property):
    """Of f = LOSS: the mean over draws is (1/T) sum f, within five standard errors of its known
    variance, sum p (w f)^2 - mean^2."""
    sampler = taught(ALL[name])
    t, weights = drawn(sampler, 100, name)
    values = (weights * LOSS[t - 1]).double()
    law = sampler.law().double()
    variance = (law * (sampler.weights(law) * LOSS) ** 2).sum() - LOSS.double().mean() ** 2
    of_batches = values.view(-1, 100).mean(1).var().item() * 100
    record_property("variance of a draw, in batches of 100", of_batches)
    error = abs(values.mean().item() - LOSS.double().mean().item())
    noise = 5 * math.sqrt(max(variance, of_batches) / DRAWS)
    assert (error < noise) is sampler.unbiased
    if sampler.unbiased and "stratified" not in name:
        assert of_batches == pytest.approx(variance.item(), rel=0.06)


def test_variances_of_the_unbiased_samplers():
    """The variance of a batch's mean loss, times the batch size, against uniform: importance cuts
    it, strata nearly remove it. The figures are closed forms."""
    measured = {}
    for name in ("uniform", "stratified", "loss_second_moment", "stratified_importance"):
        t, weights = drawn(taught(ALL[name]), 20, f"variance {name}", 100_000)
        batches = (weights * LOSS[t - 1]).double().view(-1, 20).mean(1)
        measured[name] = batches.var().item() * 20 / LOSS.double().var(unbiased=False).item()
    assert measured["uniform"] == pytest.approx(1, rel=0.07)
    law = taught(ALL["loss_second_moment"]).law().double()
    second = (law * (LOSS / (T * law)) ** 2).sum() - LOSS.double().mean() ** 2
    expected = second.item() / LOSS.double().var(unbiased=False).item()
    assert measured["loss_second_moment"] == pytest.approx(expected, rel=0.07)
    assert expected < 0.05
    assert measured["stratified"] < 0.01
    assert measured["stratified_importance"] < 0.02


def test_effective_sample_size_by_hand():
    """Law 3/4, 1/4 on two timesteps, weights 2/3 and 2: (E w)^2 / E w^2 = 1 / (1/3 + 1) = 3/4."""

    class Two(TimestepSampler):
        unbiased = True

        def law(self) -> Tensor:
            return torch.tensor([0.75, 0.25])

    assert effective_sample_size(Two(constant(2))).item() == pytest.approx(0.75)
    assert effective_sample_size(Uniform(SCHEDULE)).item() == pytest.approx(1)
    only = taught(lambda: OnlineTopK(SCHEDULE, k=4, bins=None, epsilon=0.0))
    assert effective_sample_size(only).item() == pytest.approx(1)


@pytest.mark.parametrize("number", [1, 7, 59, 60, None])
def test_bins_share_the_timesteps(number):
    bins = Bins(T, number)
    n = number or T
    assert bins.of.tolist() == [i * n // T for i in range(T)]
    assert bins.size.sum() == T
    assert bins.size.max() - bins.size.min() <= 1
    middles = bins.middles()
    assert bins.of[middles - 1].tolist() == list(range(n))
    for b, middle in enumerate(middles.tolist()):
        own = [i + 1 for i in range(T) if i * n // T == b]
        assert abs(own.index(middle) - (len(own) - 1) / 2) <= 0.5


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_averages_against_a_loop(decay):
    """The mean of the hits until `decay` forgets faster; several hits at once count as several."""
    average, random = Averages(Bins(T, 5), decay), generator("cpu", "averages")
    value, seen = [0.0] * 5, [0] * 5
    for _ in range(30):
        t = torch.randint(1, T + 1, (9,), generator=random)
        x = torch.rand(9, generator=random)
        average.add(t, x)
        for b in range(5):
            pairs = zip(((t - 1) * 5 // T).tolist(), x.tolist(), strict=True)
            mine = [v for bin_, v in pairs if bin_ == b]
            if mine:
                seen[b] += len(mine)
                forget = max(1 - decay ** len(mine), len(mine) / seen[b])
                value[b] += forget * (sum(mine) / len(mine) - value[b])
    assert average.value.tolist() == pytest.approx(value, rel=1e-5)
    assert average.seen.tolist() == seen


def test_histories_against_deques():
    sampler = LossSecondMoment(SCHEDULE, bins=4, history=3, epsilon=0.5)
    random = generator("cpu", "histories")
    last = [deque(maxlen=3) for _ in range(4)]
    for _ in range(20):
        t = torch.randint(1, T + 1, (16,), generator=random)  # often more than 3 hits in a bin
        losses, weights = torch.rand(16, generator=random), torch.rand(16, generator=random)
        sampler.update(t, losses, weights)
        for at, loss in zip(t.tolist(), (losses * weights).tolist(), strict=True):
            last[(at - 1) * 4 // T].append(loss)
    moments = [math.sqrt(sum(x * x for x in d) / 3) for d in last]
    assert sampler.scores()[[0, 15, 30, 45]].tolist() == pytest.approx(moments, rel=1e-5)


def test_objective_weights_enter_the_scores():
    """w = 1 / sqrt(L) makes every w sqrt(L) one; for second moments w = 1 / L."""
    t = torch.arange(1, T + 1).repeat(12)
    loss = LOSS[t - 1]
    topk, own = OnlineTopK(SCHEDULE, bins=None), StratifiedImportance(SCHEDULE, bins=None)
    for sampler, power in ((topk, 0.5), (own, 0.5), (LossSecondMoment(SCHEDULE, bins=None), 1)):
        sampler.update(t, loss, loss**-power)
        assert sampler.scores().tolist() == pytest.approx([1.0] * T, rel=1e-5)


@pytest.mark.parametrize("score", ["exact", "last_layer"])
def test_measured_scores_are_asked_for_when_due_and_decide(score):
    sampler = OnlineTopK(
        SCHEDULE, k=2, bins=6, score=score, refresh_every=5, decay=0.0, epsilon=0.0
    )
    asked = []

    def norms(t: Tensor, of: str) -> Tensor:
        asked.append((t.tolist(), of))
        return torch.tensor([5.0, 1.0, 2.0, 6.0, 0.0, 3.0]) if len(asked) == 1 else t.float()

    for batch in range(10):
        if batch == 4:
            assert asked == []
        sampler.refresh(norms, batch)
        assert not sampler.watches
        if batch == 8:
            assert (sampler.law() > 0).nonzero().flatten().tolist() == [*range(10), *range(30, 40)]
    assert asked == [([6, 16, 26, 36, 46, 56], score)] * 2
    assert (sampler.law() > 0).nonzero().flatten().tolist() == list(range(40, 60))


def test_a_calibrated_proxy_is_the_exact_score_at_a_refresh_and_follows_the_losses_after_it():
    sampler = OnlineTopK(SCHEDULE, k=1, bins=4, score="calibrated", refresh_every=2, epsilon=0.0)
    t = torch.arange(1, T + 1)
    sampler.update(t, torch.full((T,), 4.0), torch.ones(T))
    sampler.refresh(lambda t, of: torch.ones(len(t)), 0)
    assert sampler.scores().tolist() == pytest.approx([2.0] * T)  # not due: the proxy, sqrt(4)
    exact = torch.tensor([1.0, 6.0, 3.0, 2.0])
    sampler.refresh(lambda t, of: exact, 1)
    assert sampler.scores().view(4, 15)[:, 0].tolist() == pytest.approx(exact.tolist())
    assert (sampler.law() > 0).nonzero().flatten().tolist() == list(range(15, 30))
    for _ in range(30):  # losses of the second bin fall to 1/16: its score from 6 to 1.5
        sampler.update(t[15:30], torch.full((15,), 0.25), torch.ones(15))
    assert sampler.scores().view(4, 15)[:, 0].tolist() == pytest.approx([1.0, 1.5, 3.0, 2.0])
    assert (sampler.law() > 0).nonzero().flatten().tolist() == list(range(30, 45))
    copy = OnlineTopK(SCHEDULE, k=1, bins=4, score="calibrated", refresh_every=2, epsilon=0.0)
    copy.load_state_dict(sampler.state_dict())
    assert torch.equal(copy.law(), sampler.law())


@pytest.mark.parametrize("schedule", [linear(), cosine(), linear(100), shifted(cosine(), 1 / 64)])
def test_speed_is_the_papers_formula(schedule):
    T = schedule.T
    sampler = Speed(schedule, k=5.0, lambda_=0.6)
    std = (1 - schedule.abar).sqrt().tolist()  # the threshold by a plain loop
    inner = [t for t in range(2, T) if (std[t + 1] - std[t - 1]) / 2 >= 1e-4 * 1000 / T]
    ends = [t for t, d in ((1, std[2] - std[1]), (T, std[T] - std[T - 1])) if d >= 1e-4 * 1000 / T]
    tau = max(inner + ends)
    assert sampler.tau == tau
    p = [(5 if t <= tau else 1) / (T + tau * 4) for t in range(1, T + 1)]
    assert sampler.law().tolist() == pytest.approx(p, rel=1e-5)
    weights = sampler.weights(sampler.law())
    assert weights.min().item() == pytest.approx(0.4)
    assert weights.max().item() == pytest.approx(0.6)
    steepest = torch.gradient(1 - schedule.abar[1:])[0].argmax()
    assert weights[steepest] == weights.max()


def test_speed_threshold_of_the_linear_schedule():
    assert Speed(linear()).tau == 641
    assert Speed(linear(), tau=700).law()[699:701].tolist() == pytest.approx([5 / 3800, 1 / 3800])


def test_speed_as_released_is_what_the_code_does():
    """Five times more often where the noise level rises; the second half mirrored at m."""
    sampler = SpeedReleased(linear())
    p = sampler.p
    # a tanh of width 1e-6 around the threshold of 1e-4: the last few before it are soft
    assert (p[:630] / p[-1]).tolist() == pytest.approx([5.0] * 630, rel=1e-3)
    assert (p[650:] / p[-1]).tolist() == pytest.approx([1.0] * 350, rel=1e-3)
    t, _ = sampler.sample(64, generator("cpu", "released"))
    i = t - 1
    assert len(t) == 64
    for first, second in zip(i[:31].tolist(), i[33:].tolist(), strict=True):
        assert second == (642 - first if first < 642 else first - 642)


def test_precomputed_topk_reads_its_file_and_only_its_own(tmp_path):
    path = tmp_path / "scores.json"
    score = [1.0, 5.0, 2.0, 4.0]
    path.write_text(json.dumps({"origin": {"schedule.T": 60, "net.channels": 8}, "score": score}))
    sampler = PrecomputedTopK(SCHEDULE, str(path), k=0.5, epsilon=0.2)
    expected = mixture(torch.tensor([0.0] * 15 + [1.0] * 15 + [0.0] * 15 + [1.0] * 15), 0.2)
    assert sampler.law().tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert not sampler.unbiased
    t, _ = drawn(sampler, DRAWS, "precomputed")
    assert p_value(t, expected) > 1e-4
    sampler.check({"schedule.T": 60, "net.channels": 8})
    with pytest.raises(ConfigError, match=r"schedule\.T is 60 there and 100 here"):
        sampler.check({"schedule.T": 100, "net.channels": 8})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a file of scores"),
        ('{"origin": {}}', "not a file of scores"),
        ('{"origin": {}, "score": [1, -2]}', "not a list of numbers"),
        ('{"origin": {}, "score": [1, NaN]}', "not a list of numbers"),
        ('{"origin": {}, "score": []}', "not a list of numbers"),
        ('{"origin": {}, "score": [[1], [2]]}', "not a list of numbers"),
    ],
)
def test_broken_score_files_are_refused_in_a_line(tmp_path, content, reason):
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(DdiffError, match=reason) as caught:
        PrecomputedTopK(SCHEDULE, str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_learned_state_survives_a_checkpoint(name):
    sampler, copy = taught(ADAPTIVE[name]), ADAPTIVE[name]()
    copy.load_state_dict(sampler.state_dict())
    for step in range(5):
        draws = [s.sample(16, generator("cpu", "copy", step)) for s in (sampler, copy)]
        assert torch.equal(draws[0][0], draws[1][0])
        for s, (t, _) in zip((sampler, copy), draws, strict=True):
            s.update(t, LOSS[t - 1] / (step + 1), torch.ones(16))
    for a, b in zip(sampler.state_dict().values(), copy.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ALL)
def test_nothing_waits_for_the_device(name):
    """Tensors without values: whatever needs a value on the host raises."""
    sampler = ALL[name]()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for key, buffer in list(sampler.named_buffers()):
            owner = sampler.get_submodule(key.rpartition(".")[0])
            setattr(owner, key.rpartition(".")[2], mode.from_tensor(buffer))
        t, _ = sampler.sample(8, torch.Generator())
        sampler.refresh(lambda t, of: t.float(), 0)
        sampler.update(t, torch.rand(8), torch.ones(8))
        t, _ = sampler.sample(8, torch.Generator())
        with pytest.raises(Exception, match="_local_scalar_dense"):
            t.sum().item()  # the net that would catch it has no hole


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineTopK(SCHEDULE, k=0), "timesteps.k: 0"),
        (lambda: OnlineTopK(SCHEDULE, k=0.0), "timesteps.k"),
        (lambda: OnlineTopK(SCHEDULE, k=1.5), "timesteps.k"),
        (lambda: OnlineTopK(SCHEDULE, k=11, bins=10), "1..10"),
        (lambda: OnlineTopK(SCHEDULE, epsilon=1.5), "epsilon"),
        (lambda: OnlineTopK(SCHEDULE, epsilon=0.0, correct=True), "above 0 where correct"),
        (lambda: OnlineTopK(SCHEDULE, bins=0), "timesteps.bins: 0"),
        (lambda: OnlineTopK(SCHEDULE, decay=1.0), "timesteps.decay"),
        (lambda: OnlineTopK(SCHEDULE, refresh_every=0), "refresh_every"),
        (lambda: OnlineTopK(SCHEDULE, score="guess"), "proxy, calibrated, exact, last_layer"),
        (lambda: LossSecondMoment(SCHEDULE, history=0), "timesteps.history"),
        (lambda: LossSecondMoment(SCHEDULE, epsilon=0.0), "epsilon"),
        (lambda: StratifiedImportance(SCHEDULE, epsilon=2.0), "epsilon"),
        (lambda: Speed(SCHEDULE, k=0.0), "k 0.0 must be above 0"),
        (lambda: Speed(SCHEDULE, tau=61), "in 1..60"),
        (lambda: Speed(SCHEDULE, lambda_=0.4), "lambda_"),
        (lambda: PrecomputedTopK(SCHEDULE, "nowhere.json"), "ddiff.importance writes one"),
    ],
)
def test_wrong_options_are_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_uncertainty_brings_every_loss_to_one_size() -> None:
    """Loss at t is t / T: the weighted loss of each bin is then the mean over t, and so is the
    total, whose size does not change."""
    T = SCHEDULE.T
    sampler = Uncertainty(SCHEDULE, bins=5, decay=0.0)
    assert sampler.weights(sampler.law()).tolist() == [1.0] * T
    t = torch.arange(1, T + 1)
    losses = t / T
    sampler.update(t, losses, 2 * torch.ones(T))
    weights = sampler.weights(sampler.law())
    by_bin = [(weights * losses)[sampler.bins.of == b].mean().item() for b in range(5)]
    assert by_bin == pytest.approx([losses.mean().item()] * 5, rel=1e-5)
    assert (weights * losses).mean().item() == pytest.approx(losses.mean().item(), rel=1e-5)
    drawn, weight = sampler.sample(4000, generator("cpu", "u"))
    assert torch.equal(weight, weights[drawn - 1])
    assert drawn.double().mean().item() == pytest.approx((T + 1) / 2, rel=0.05)

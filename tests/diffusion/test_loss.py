"""The one loss, against its formula written out."""

import pytest
import torch
from torch import Tensor

from ddiff.diffusion import NO_LABEL, X0, Eps, V, loss
from ddiff.diffusion.loss import errors, noised
from ddiff.diffusion.schedules import cosine
from ddiff.diffusion.timesteps import All, LogitNormal, Uniform

SCHEDULE = cosine(100)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Asked:
    """A net that says 0.1 x and keeps its labels."""

    def __init__(self) -> None:
        self.y: list[Tensor | None] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        assert t.min() >= 0
        assert t.max() < SCHEDULE.T
        self.y.append(y)
        return 0.1 * x


@pytest.mark.parametrize("objective", [Eps(), X0("min_snr"), V("p2")])
@pytest.mark.parametrize("timesteps", [Uniform, LogitNormal])
def test_is_the_weighted_mean_square_error(objective, timesteps):
    sampler, x_0 = timesteps(SCHEDULE), torch.randn(6, 2, 3, generator=drawn(0))
    found = loss(Asked(), x_0, None, SCHEDULE, objective, sampler, drawn(5))
    g = drawn(5)
    t, law = sampler.sample(6, g)
    eps = torch.randn(6, 2, 3, generator=g)
    a = SCHEDULE.abar[t].sqrt()[:, None, None]
    b = (1 - SCHEDULE.abar[t]).sqrt()[:, None, None]
    target = {Eps: eps, X0: x_0, V: a * eps - b * x_0}[type(objective)]
    each = (0.1 * (a * x_0 + b * eps) - target).square().mean((1, 2))
    assert found.t.tolist() == t.tolist()
    torch.testing.assert_close(found.each.double(), each.double(), rtol=1e-5, atol=1e-6)
    total = (each * law * objective.weights(SCHEDULE)[t]).mean()
    assert found.total.item() == pytest.approx(total.item(), rel=1e-5)


def test_a_perfect_net_has_no_loss():
    x_0 = torch.randn(4, 3, generator=drawn(1))
    found = loss(lambda x, t, y: x_0, x_0, None, SCHEDULE, X0(), Uniform(SCHEDULE), drawn(2))
    assert found.total == 0
    assert found.each.tolist() == [0] * 4


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_are_dropped_with_their_probability(share):
    net, n = Asked(), 4000
    x_0, y = torch.zeros(n, 1), torch.full((n,), 7)
    loss(net, x_0, y, SCHEDULE, V(), Uniform(SCHEDULE), drawn(3), p_uncond=share)
    (seen,) = net.y
    assert seen is not None
    assert set(seen.tolist()) <= {7, NO_LABEL}
    dropped = (seen == NO_LABEL).float().mean().item()
    assert dropped == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)


def test_noise_may_come_from_elsewhere():
    x_0 = torch.ones(3, 2)

    def add_noise(x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x_0, 0 * x_0

    found = loss(
        Asked(), x_0, None, SCHEDULE, V(), Uniform(SCHEDULE), drawn(4), add_noise=add_noise
    )
    assert found.each.tolist() == pytest.approx([0.04] * 3, rel=1e-6)


def test_errors_are_float32_under_a_half_precision_net():
    x_0, t, eps = torch.ones(2, 3), torch.tensor([1, 50]), torch.zeros(2, 3)
    x_t, target = noised(x_0, t, eps, SCHEDULE, X0())
    each, pred = errors(lambda x, t, y: torch.full_like(x, 0.5).half(), x_t, target, t, None)
    assert each.dtype == pred.dtype == torch.float32
    assert each.tolist() == [0.25, 0.25]


def test_all_timesteps_of_every_sample_are_the_objective_itself():
    """The loss of a net that answers 0 is the mean square of the samples, at every timestep."""
    schedule, x_0 = cosine(10), torch.randn(3, 2, generator=drawn(6))
    found = loss(lambda x, t, y: 0 * x, x_0, None, schedule, X0(), All(schedule), drawn(7))
    assert found.t.tolist() == [*range(1, 11)] * 3
    per_sample = x_0.square().mean(1)
    torch.testing.assert_close(found.each.view(3, 10), per_sample[:, None].expand(3, 10))
    assert found.total.item() == pytest.approx(per_sample.mean().item(), rel=1e-6)
    net, y = Asked(), torch.tensor([4, 5, 6])
    loss(net, x_0, y, schedule, V(), All(schedule), drawn(8))
    assert net.y[0] is not None
    assert net.y[0].tolist() == [4] * 10 + [5] * 10 + [6] * 10

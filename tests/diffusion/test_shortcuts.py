"""Shortcuts against Gaussian data, where the flow from any time to any other is known."""

import math

import pytest
import torch
from torch import Tensor

from ddiff.diffusion import NO_LABEL, X0, Eps, Flow, Objective, Schedule, V, loss, solve
from ddiff.diffusion.schedules import cosine, flow, karras
from ddiff.diffusion.shortcuts import Shortcuts, Steps
from ddiff.diffusion.solvers import ddim, few
from ddiff.diffusion.timesteps import Uniform
from ddiff.system.errors import ConfigError
from ddiff.system.told import LONGEST, decoded, encoded

M, S = 0.4, 0.5  # x_0 ~ N(M, S^2)
PATHS = [(cosine(), V()), (cosine(200), X0()), (flow(), Flow()), (flow(128), V()), (karras(), V())]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Exact:
    """A net that says of every step where the flow of the Gaussian leads, in a step of DDIM."""

    def __init__(self, schedule: Schedule, objective: Objective) -> None:
        self.schedule, self.objective = schedule, objective

    def __call__(self, x: Tensor, told: Tensor, y: Tensor | None) -> Tensor:
        t, length = decoded(told)
        t = t + 1
        a, b = self.schedule.signal_and_noise(t, x)
        std = (a**2 * S**2 + b**2).sqrt()
        a_s, b_s = self.schedule.signal_and_noise(t - length, x)
        x_s = a_s * M + (a_s**2 * S**2 + b_s**2).sqrt() / std * (x - a * M)
        far = (x_s - b_s / b * x) / (a_s - b_s / b * a)
        near = M + a * S**2 / std**2 * (x - a * M)
        x_0 = torch.where((length == 0).view(-1, *[1] * (x.dim() - 1)), near, far)
        p, q = self.objective.coefficients(a, b)
        return (x_0 - p * x) / q


class Learned:
    """A net that has learned perfectly: long steps from `Shortcuts`, steps of no length exactly."""

    def __init__(self, shortcuts: Shortcuts) -> None:
        self.shortcuts = shortcuts
        self.exact = Exact(shortcuts.schedule, shortcuts.objective)

    def __call__(self, x: Tensor, told: Tensor, y: Tensor | None) -> Tensor:
        t, length = decoded(told[:1])
        if length == 0:
            return self.exact(x, told, y)
        grid = self.shortcuts.grid
        first = int((grid == t + 1).nonzero())
        last = int((grid == t + 1 - length).nonzero())
        middle = (first + last) // 2
        cells = [grid[i].expand(len(x)) for i in (first, middle, last)]
        shortest = torch.full((len(x),), last - first == 2)
        return self.shortcuts.target(self, x, Steps(*cells, shortest), y)


@pytest.mark.parametrize(("schedule", "objective"), PATHS)
def test_the_halves_of_an_exact_flow_give_the_whole(schedule, objective) -> None:
    shortcuts = Shortcuts(schedule, objective, 0.25, clamp=None)
    steps = shortcuts.draw(200, drawn(0))
    steps = steps._replace(shortest=torch.zeros(200, dtype=torch.bool))
    x_t = torch.randn(200, 3, generator=drawn(1), dtype=torch.float64)
    net = Exact(schedule, objective)
    wanted = net(x_t, encoded(steps.t, steps.s), None)
    found = shortcuts.target(net, x_t, steps, None)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("schedule", "objective"), PATHS)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 64])
def test_what_is_learned_level_by_level_is_the_shortest_steps_of_ddim(
    schedule, objective, num_steps
):
    """So that one step of a perfect net ends where the long solution does."""
    x = torch.randn(3, 2, generator=drawn(2), dtype=torch.float64)
    learned = Learned(Shortcuts(schedule, objective, 0.25, 128, clamp=None))
    *_, found = solve(learned, few(schedule, num_steps), objective, x)
    *_, wanted = solve(learned.exact, ddim(schedule, 128), objective, x)
    torch.testing.assert_close(found.x, wanted.x, rtol=0, atol=1e-6)
    std = math.sqrt(schedule.abar[-1] * S**2 + 1 - schedule.abar[-1])
    end = M + S / std * (x - schedule.abar[-1].sqrt() * M)
    assert (found.x - end).abs().max() < 0.05  # ddim is of first order


def test_steps_of_every_length_are_drawn_alike_and_tile_the_grid() -> None:
    levels, n = 7, 14_000
    shortcuts = Shortcuts(flow(), Flow(), 0.25, 2**levels)
    t, m, s, shortest = shortcuts.draw(n, drawn(3))
    where = {int(time): i for i, time in enumerate(shortcuts.grid)}
    cells = [torch.tensor([where[int(time)] for time in times]) for times in (t, m, s)]
    assert torch.equal(cells[1] - cells[0], cells[2] - cells[1])
    length = cells[2] - cells[0]
    assert torch.equal(shortest, length == 2)
    for level in range(levels):
        of = length == 2 ** (level + 1)
        assert int(of.sum()) == pytest.approx(n / levels, abs=5 * (n / levels) ** 0.5)
        places = cells[0][of] // 2 ** (level + 1)
        assert torch.equal(places * 2 ** (level + 1), cells[0][of])
        assert len(places.unique()) == 2**levels // 2 ** (level + 1)


def test_only_the_shortest_steps_are_guided_and_asked_without_a_length() -> None:
    schedule = flow()
    shortcuts = Shortcuts(schedule, Flow(), 0.25, guidance=2.0, clamp=None)
    asked: list[tuple[Tensor, Tensor]] = []

    def net(x: Tensor, told: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        asked.append((told, y))
        return (y + 1.0)[:, None].expand_as(x)  # 0 without a label

    steps = shortcuts.draw(40, drawn(4))
    assert 0 < int(steps.shortest.sum()) < 40
    x, y = torch.randn(40, 2, generator=drawn(5)), torch.full((40,), 3)
    found = shortcuts.target(net, x, steps, y)
    # both halves predict a constant velocity, and so does the whole
    wanted = torch.where(steps.shortest, 3 * 4.0, 4.0)[:, None].expand_as(x)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    for (told, labels), (t, s) in zip(asked, [(steps.t, steps.m), (steps.m, steps.s)], strict=True):
        length = torch.where(steps.shortest, 0, t - s)
        assert torch.equal(told, (t - 1 + LONGEST * length).repeat(2))
        assert labels.tolist() == [3] * 40 + [NO_LABEL] * 40


def test_the_last_samples_of_a_batch_learn_them() -> None:
    """The loss of a batch of 8, a quarter of it on long steps, written out."""
    schedule, objective = cosine(), V("min_snr")
    shortcuts = Shortcuts(schedule, objective, 0.25)
    net = Exact(schedule, objective)
    x_0, y = torch.randn(8, 2, generator=drawn(6)), torch.arange(8)

    def tenth(x: Tensor, told: Tensor, y: Tensor | None) -> Tensor:
        return 0.1 * x

    found = loss(tenth, x_0, y, schedule, objective, Uniform(schedule), drawn(7),
                 p_uncond=0.5, shortcuts=shortcuts, averaged=net)  # fmt: skip
    g = drawn(7)
    t, _ = Uniform(schedule).sample(6, g)
    steps = shortcuts.draw(2, g)
    at, eps = torch.cat([t, steps.t]), torch.randn(8, 2, generator=g)
    x_t, target = schedule.add_noise(x_0, at, eps), objective.target(schedule, x_0, eps, at)
    target[6:] = shortcuts.target(net, x_t[6:], steps, None)
    each = (0.1 * x_t - target).square().mean(1)
    weights = torch.cat([objective.weights_at(schedule, t), torch.ones(2)])
    assert found.long == 2
    assert torch.equal(found.t, at)
    torch.testing.assert_close(found.each, each)
    torch.testing.assert_close(found.total, (each * weights).mean())


def test_estimates_that_are_learned_from_are_bounded() -> None:
    shortcuts = Shortcuts(flow(), X0(), 0.25)
    steps, x = shortcuts.draw(20, drawn(8)), torch.randn(20, 2, generator=drawn(9))
    found = shortcuts.target(lambda x, told, y: torch.full_like(x, 7), x, steps, None)
    torch.testing.assert_close(found, torch.ones_like(x))


@pytest.mark.parametrize(
    ("schedule", "objective", "words"),
    [(cosine(), Eps(), "objective=eps"), (cosine(10), V(), "not 10"),
     (cosine(40_000), V(), "not 40000")],
)  # fmt: skip
def test_what_cannot_learn_them_is_refused(schedule, objective, words) -> None:
    with pytest.raises(ConfigError, match=words):
        Shortcuts(schedule, objective, 0.25)


def test_a_share_of_a_batch_is_never_all_of_it_or_none() -> None:
    numbers = [Shortcuts(flow(), Flow(), share).number for share in (0.01, 0.25, 1.0)]
    assert [of(8) for of in numbers] == [1, 2, 7]
    with pytest.raises(ConfigError, match="2 samples"):
        numbers[0](1)

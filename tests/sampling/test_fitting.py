"""Fitted plans: exact on Gaussian data, and `python -m ddiff.plan` with all that reads its file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ddiff
from ddiff.backends import Eager, Native
from ddiff.diffusion import ClassifierFree, V
from ddiff.diffusion.schedules import linear
from ddiff.diffusion.solvers import ddim, dpmpp_2m, heun
from ddiff.sampling.fitting import Pairs, Problem, fit_columns, fit_times, known
from tests.artifacts.worlds import make_run
from tests.support.runs import Done, ddiff_many, job

SCHEDULE = linear()
GAUSSIANS = {  # means and standard deviations of the coordinates, steps
    "one": (torch.tensor([0.4]).double(), torch.tensor([0.5]).double(), 2),
    "two": (torch.tensor([0.4, -0.3]).double(), torch.tensor([0.5, 0.2]).double(), 3),
}


def gaussian(m: Tensor, s: Tensor, samples: int) -> tuple[Problem, Pairs]:
    """The exact denoiser of N(m, s^2), and noises with the end of their probability flow."""

    def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        abar = SCHEDULE.abar[t[0] + 1]
        k = abar.sqrt() * s**2 / (abar * s**2 + 1 - abar)
        x_0 = m + k * (x - abar.sqrt() * m)
        return V().target(SCHEDULE, x_0, (x - abar.sqrt() * x_0) / (1 - abar).sqrt(), t + 1)

    abar = SCHEDULE.abar[-1]
    g = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, len(m), generator=g, dtype=torch.float64)
    flowed = m + s * (x - abar.sqrt() * m) / (abar * s**2 + 1 - abar).sqrt()
    return Problem(net, SCHEDULE, V(), ClassifierFree()), Pairs(x, None, flowed)


@pytest.mark.parametrize("case", GAUSSIANS)
def test_on_gaussians_a_few_steps_reach_the_exact_flow(case):
    m, s, steps = GAUSSIANS[case]
    problem, pairs = gaussian(m, s, 256)
    _, held_out = gaussian(m, s, 300)
    start = min(known(SCHEDULE, steps), key=lambda one: problem.error(one.plan, held_out))
    classical = problem.error(start.plan, held_out)
    assert problem.error(ddim(SCHEDULE, steps), held_out) > 0.2
    assert classical > 0.1
    timed = fit_times(problem, start, pairs)
    assert problem.error(timed, held_out) < 0.95 * classical
    fit = fit_columns(problem, timed, pairs, iterations=500)
    assert problem.error(fit, held_out) < 1e-4


@pytest.mark.parametrize("plan", [ddim(SCHEDULE, 4), dpmpp_2m(SCHEDULE, 4), heun(SCHEDULE, 3)])
def test_the_unrolled_steps_are_those_of_solve(plan):
    problem, pairs = gaussian(*GAUSSIANS["two"][:2], 8)
    columns = torch.stack([plan.x, plan.x_0, plan.x_0_previous], 1)
    unrolled = problem.unrolled(plan, columns, pairs.x, None)
    torch.testing.assert_close(unrolled, problem.run(plan, pairs.x, None), rtol=0, atol=1e-12)
    kept = fit_columns(problem, plan, pairs, iterations=0)  # there and back through its basis
    torch.testing.assert_close(kept.table(V()), plan.table(V()), rtol=0, atol=1e-12)


def test_known_solvers_have_the_evaluations_asked_for():
    for evaluations in (1, 2, 5):
        found = known(SCHEDULE, evaluations)
        assert {len(one.plan) for one in found} == {evaluations}
        assert all(one.plan.times[0] == SCHEDULE.T for one in found)
        assert any("heun" in one.name for one in found) == (evaluations % 2 == 1)


QUICK = ("num_samples=16", "held_out=16", "batch_size=16", "solver.num_steps=12", "iterations=12",
         "num_steps=3", "accelerator=cpu", "threads=1")  # fmt: skip
FILE = "run/plans/learned_3.json"
DRAW = ("num_samples=16", "batch_size=16", "solver=learned", "picture=false")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done]]:
    cwd = tmp_path_factory.mktemp("plans")
    make_run(cwd / "run", "2D")
    make_run(cwd / "other", "3D")
    jobs = [
        job("plan", "run=run", *QUICK),
        job("plan", "run=run", *QUICK),
        job("sample", "run=run", *DRAW, f"solver.path={FILE}", "out=eager", "backend=eager"),
        job("sample", "run=run", *DRAW, f"solver.path={FILE}", "out=w0", "guidance=none"),
        job("sample", "run=other", *DRAW, f"solver.path={FILE}", "out=other"),
        job("sample", "run=run", *DRAW, "out=none"),
        job("export", "run=run", "format=pt2", "solver=learned", f"solver.path={FILE}"),
        job("plan", "run=run/artifacts/model.pt2", *QUICK),
        job("plan", "run=run", *QUICK, "solver=ddpm", "out=a.json"),
        job("plan", "run=run", *QUICK, "solver.num_steps=3", "out=a.json"),
    ]
    return cwd, ddiff_many(jobs, cwd)


@pytest.mark.slow
def test_the_verb_fits_and_says_what_it_gained(world):
    cwd, (done, again, *_) = world
    assert (done.status, done.err) == (0, "")
    assert "and its coefficients" in done.out
    facts = json.loads((cwd / FILE).read_text())
    classical, timed, both = facts["errors"].values()
    assert classical == min(facts["classical"].values())
    assert both < timed <= classical
    assert facts["plan"]["num_steps"] == 3
    assert again.status == 2
    assert "exists already" in again.err


@pytest.mark.slow
def test_samples_are_those_that_were_fitted(world):
    """The held-out noises are those of the samples: the error in the file can be computed again."""
    cwd, done = world
    assert done[2].status == 0, done[2].err
    drawn, facts = np.load(cwd / "eager.npy"), json.loads((cwd / FILE).read_text())
    model = ddiff.load(cwd / "run", accelerator="cpu")
    long = model.sample(16, solver="dpmpp_2m", num_steps=12, batch_size=16, backend=Eager())
    error = float(np.sqrt(np.mean((drawn.astype(float) - long) ** 2)))
    assert error == pytest.approx(facts["errors"][facts["written"]], abs=1e-5)
    for backend in (Eager(), Native()):
        found = model.sample(16, solver=str(cwd / FILE), batch_size=16, backend=backend)
        np.testing.assert_allclose(found, drawn, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_another_guidance_is_told_and_another_schedule_refused(world):
    _, done = world
    assert done[3].status == 0
    assert "fitted to another guidance ClassifierFree(scale=1.5)" in done[3].out
    assert "fitted to another" not in done[2].out
    for one, said in ((done[4], "another schedule"), (done[5], "solver.path=...")):
        assert one.status == 2
        assert one.err.count("\n") == 1
        assert said in one.err


@pytest.mark.slow
def test_an_exported_file_needs_the_plan_no_more(world, monkeypatch):
    cwd, done = world
    assert done[6].status == 0, done[6].err
    monkeypatch.chdir(cwd / "other")  # the path in the file leads nowhere from here
    model = ddiff.load(cwd / "run/artifacts/model.pt2", accelerator="cpu")
    found = model.sample(16, batch_size=16)
    np.testing.assert_allclose(found, np.load(cwd / "eager.npy"), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_what_cannot_be_fitted_is_refused_in_one_line(world):
    _, done = world
    for one, said in zip(done[7:], ("no gradients", "must add no noise", "no long"), strict=True):
        assert one.status == 2
        assert one.err.count("\n") == 1
        assert said in one.err

"""Fitting of a plan to one net: few steps that end where a long solution from the same noise ends.

The long solution is that of a deterministic solver with many steps (the probability flow). Three
stages, each starting from the one before:

1. the best of the known solvers and spacings with this number of evaluations of the net;
2. its times, by coordinate search: one time is moved at a time, and stays where the samples come
   nearer to the long solution. The search sees the whole solution, with guidance, clamp and the way
   in which the errors of the steps add up, which searches over single steps do not. Five steps have
   four free times, so that it is quick;
3. its coefficients, by gradient through all steps of the frozen net (Adam).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from omegaconf import DictConfig
from torch import Tensor

from ddiff.artifacts.decoding import bounded
from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.trained import Trained
from ddiff.backends import device_of
from ddiff.build import build_guidance, build_plan, build_precision
from ddiff.config.options import Plan as Options
from ddiff.diffusion import Guidance, Objective, Plan, Schedule, Step, solve
from ddiff.diffusion.guidance import Net
from ddiff.diffusion.plans import written
from ddiff.diffusion.solvers import Named, ddim, dpmpp_2m, heun
from ddiff.kernels import philox
from ddiff.nets.conditions import Layout
from ddiff.sampling.conditions import conditions_for, examples_of
from ddiff.sampling.generation import FLOAT32, fitted_to
from ddiff.system.console import console, progress, show_table
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import check_outputs, write_json
from ddiff.system.random import generator, key

Solver = Callable[[Sequence[int]], Plan]  # from times without the 0 at the end to a plan
SEARCHED = 64  # samples that the search for times looks at


@dataclass(frozen=True, eq=False)
class Pairs:
    """Noises x [B, C, *S] with labels y [B] or None, and the long solutions [B, C, *S] of them."""

    x: Tensor
    y: Tensor | None
    long: Tensor

    def at(self, rows: Tensor | slice) -> "Pairs":
        return Pairs(self.x[rows], None if self.y is None else self.y[rows], self.long[rows])


@dataclass(frozen=True, eq=False)
class Problem:
    """A frozen net, and how it is sampled."""

    net: Net
    schedule: Schedule
    objective: Objective
    guidance: Guidance
    clamp: float | None = None
    batch_size: int = 64

    @torch.no_grad()
    def run(self, plan: Plan, x: Tensor, y: Tensor | None) -> Tensor:
        """Return the samples [B, C, *S] that a deterministic plan makes of the noises x."""
        plan, samples = plan.guided_by(self.guidance), []
        for row in range(0, len(x), self.batch_size):
            rows = slice(row, row + self.batch_size)
            labels = None if y is None else y[rows]
            *_, last = solve(
                self.net, plan, self.objective, x[rows], None, self.clamp, labels, self.guidance
            )
            samples.append(last.x)
        return torch.cat(samples)

    def error(self, plan: Plan, pairs: Pairs) -> float:
        """Root mean square distance to the long solution; infinite if it is not finite."""
        found = self.run(plan, pairs.x, pairs.y) - pairs.long
        error = found.double().square().mean().sqrt().item()
        return error if math.isfinite(error) else math.inf

    def unrolled(self, plan: Plan, columns: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        """Return what `run` returns, with gradients with respect to columns [N, 3]: a, b, c."""
        plan = plan.guided_by(self.guidance)
        given = plan.table(self.objective)[:, [0, 1, 6]].tolist()
        previous = torch.zeros_like(x)
        for step, (p, q, w) in enumerate(given):
            a, b, c = columns[step].to(x.dtype)
            t = torch.full((len(x),), int(plan.times[step]) - 1, device=x.device)
            x_0 = p * x + q * self.guidance(self.net, x, t, y, Step(step, w)).to(x.dtype)
            if self.clamp is not None:
                x_0 = x_0.clamp(-self.clamp, self.clamp)
            x, previous = a * x + b * x_0 + c * previous, x_0
        return x


@dataclass(frozen=True, eq=False)
class Candidate:
    """A known solver with a spacing: its name, its plan, and the function that it came from."""

    name: str
    plan: Plan
    solver: Solver


def known(schedule: Schedule, evaluations: int) -> list[Candidate]:
    """Return the known deterministic solvers with this number of evaluations, in every spacing."""
    found = []
    for solver in (ddim, dpmpp_2m, heun):
        steps = (evaluations + 1) // 2 if solver is heun else evaluations
        if steps > schedule.T or (solver is heun and evaluations % 2 == 0):
            continue
        for spacing in get_args(Named):
            if spacing != "leading":  # it does not start from pure noise
                own: Solver = partial(_at, solver, schedule)
                plan = solver(schedule, steps, spacing=spacing)
                found.append(Candidate(f"{solver.__name__}, {spacing}", plan, own))
    return found


def _at(solver: Callable[..., Plan], schedule: Schedule, times: Sequence[int]) -> Plan:
    return solver(schedule, len(times), spacing=list(times))


def fit_times(problem: Problem, start: Candidate, pairs: Pairs, rounds: int = 6) -> Plan:
    """Return the plan of the same solver at better times, by coordinate search.

    Every time but the first moves towards a neighbour: in the first two rounds by half of the
    distance, in the next two by a quarter, and so on.
    """
    plan, times = start.plan, start.plan.times[:-1].unique_consecutive().tolist()
    least = problem.error(plan, pairs)
    moves = [(n, i, side) for n in range(rounds) for i in range(1, len(times)) for side in (-1, 1)]
    with progress("searching times", len(moves)) as meter:
        for done, (number, i, side) in enumerate(moves):
            meter(done, f"error {least:.4f}")
            neighbours = times[i - 1], [*times, 0][i + 1]
            share = 0.5 ** (1 + number // 2)
            moved = round(times[i] + share * (neighbours[side > 0] - times[i]))
            if moved in (times[i], *neighbours):
                continue
            tried = [*times[:i], moved, *times[i + 1 :]]
            there = start.solver(tried)
            if (error := problem.error(there, pairs)) < least:
                plan, times, least = there, tried, error
    return plan


def fit_columns(
    problem: Problem,
    plan: Plan,
    pairs: Pairs,
    iterations: int = 400,
    lr: float = 0.01,
    seed: int = 0,
) -> Plan:
    """Return the plan with coefficients fitted by gradient; times stay.

    The columns are learned in the basis x' = e eps + s x_0 + k (x_0 - x_0_previous), whose parts
    are of size 1 and almost independent: x itself is made of x_0 and eps.
    """
    abar = plan.schedule.abar[plan.times[:-1]]
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    a, b, c = plan.x, plan.x_0, plan.x_0_previous
    basis = torch.stack([a * sigma, b + c + a * alpha, -c], 1).requires_grad_()

    def columns() -> Tensor:
        e, s, k = basis.unbind(1)
        k = torch.cat([0 * k[:1], k[1:]])  # the first step has no previous estimate
        return torch.stack([e / sigma, s + k - e * alpha / sigma, -k], 1)

    adam = torch.optim.Adam([basis], lr, betas=(0.9, 0.99), eps=1e-12)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, iterations))
    g, total = generator("cpu", seed, "plan"), len(pairs.x)
    with progress("fitting", iterations) as meter:
        for number in range(iterations):
            chosen = torch.randperm(total, generator=g)[: problem.batch_size]
            batch = pairs.at(chosen.to(pairs.x.device))
            found = problem.unrolled(plan, columns(), batch.x, batch.y)
            loss = (found - batch.long).square().mean()
            if not math.isfinite(loss.item()):
                raise DdiffError("the fit has run away: give a smaller lr= or clamp=1.0")
            adam.zero_grad()
            loss.backward()
            adam.step()
            cosine.step()
            meter(number + 1, f"error {loss.item() ** 0.5:.4f}")
    x, x_0, x_0_previous = columns().detach().unbind(1)
    return replace(plan, x=x, x_0=x_0, x_0_previous=x_0_previous)


def fit_plan(trained: Trained, options: Options) -> Path:
    """Fit a plan to a trained net, write its file, print the errors, and return the file's path."""
    out = options.out or trained.run_dir / "plans" / f"learned_{options.num_steps}.json"
    path = Path(out)
    check_outputs([path], options.overwrite)
    problem, long = _problem(trained, options)
    candidates = known(trained.schedule, options.num_steps)
    if not candidates:
        raise ConfigError(f"num_steps must lie in 1..{trained.schedule.T}, not {options.num_steps}")
    fitted = fitted_to(trained, problem.guidance, options.clamp)
    # held out: the very samples that ddiff.sample draws with this seed
    held_out = _pairs(problem, trained, long, options, options.held_out, "sample")
    pairs = _pairs(problem, trained, long, options, options.num_samples, "plan")
    errors = [problem.error(one.plan, held_out) for one in candidates]
    best = min(range(len(errors)), key=errors.__getitem__)
    stages = [(candidates[best].name, candidates[best].plan)]
    searched = pairs.at(torch.arange(0, len(pairs.x), max(1, len(pairs.x) // SEARCHED)))
    stages.append(("its times fitted", fit_times(problem, candidates[best], searched)))
    if options.iterations:
        fit = fit_columns(
            problem, stages[-1][1], pairs, options.iterations, options.lr, options.seed
        )
        stages.append(("and its coefficients", fit))
    found = [errors[best], *(problem.error(plan, held_out) for _, plan in stages[1:])]
    chosen = min(range(len(found)), key=found.__getitem__)
    facts = {
        "plan": written(stages[chosen][1], fitted),
        "from": stages[0][0],
        "written": stages[chosen][0],
        "errors": {name: error for (name, _), error in zip(stages, found, strict=True)},
        "classical": {one.name: error for one, error in zip(candidates, errors, strict=True)},
        "long_steps": len(long),
        "step": trained.step,
        **{name: getattr(options, name) for name in ("num_samples", "held_out", "seed")},
        **{name: getattr(options, name) for name in ("iterations", "lr", "weights")},
    }
    write_json(path, facts)
    rows = [
        [name, f"{error:.4f}", f"{error / found[0]:.2f}" if found[0] else ""]
        for (name, _), error in zip(stages, found, strict=True)
    ]
    show_table([f"{options.num_steps} evaluations", "error", "of the first"], rows)
    console.print(
        f"error       root mean square distance to {len(long)} evaluations, on {options.held_out} "
        "noises held out"
    )
    if chosen == 0:
        console.print(f"no gain     the file holds {stages[0][0]}: nothing fitted was better")
    console.print(f"plan        {path}  times {stages[chosen][1].times.tolist()}")
    console.print(
        f"sample      python -m ddiff.sample run={options.run} solver=learned solver.path={path}"
    )
    return path


def _problem(trained: Trained, options: Options) -> tuple[Problem, Plan]:
    """Return the problem of these options, and the plan of the long solution."""
    net = trained.net
    if isinstance(net, ArtifactNet):
        raise ConfigError(f"run: {options.run} is an artifact, which has no gradients; give a run")
    guidance = build_guidance(options.guidance)
    guidance.check(bool(Layout.of_net(trained.options.net)), options.y)
    long = build_plan(options.solver, trained.schedule)
    if long.stochastic:
        raise ConfigError("solver: the long solution must add no noise; say solver=dpmpp_2m")
    if len(long) <= options.num_steps:
        raise ConfigError(
            f"solver.num_steps: {len(long)} evaluations are no long solution for "
            f"num_steps={options.num_steps}"
        )
    build_precision(DictConfig(FLOAT32), device_of(net))
    net.requires_grad_(False).eval()
    problem = Problem(
        net,
        trained.schedule,
        trained.objective,
        guidance,
        bounded(options.clamp, trained.decoder),
        options.batch_size,
    )
    return problem, long


def _pairs(
    problem: Problem, trained: Trained, long: Plan, options: Options, number: int, purpose: str
) -> Pairs:
    """Return pairs of noise and long solution; noises of another `purpose` are other noises."""
    device = device_of(trained.net)
    samples = torch.arange(number, device=device)
    x = philox.normal(key(options.seed, purpose), samples, 0, tuple(trained.options.net.shape))
    y = conditions_for(options.y, number, Layout.of_net(trained.options.net), examples_of(trained))
    y = None if y is None else y.to(device)
    return Pairs(x, y, problem.run(long, x, y))

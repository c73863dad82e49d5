"""Costs of a step of each training, measured in turns: a step of every training, round by round.

`python -m ddiff.study.calibration FOLDER` is a job of the study. It runs in the place of a run, and
on this machine in all slots at the same time, for what one slot can do depends on the others.
"""

import contextlib
import gc
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ddiff.build import (
    build_guidance,
    build_plan,
    is_generative,
    module_class,
)
from ddiff.config.shell import explain
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.sampling.given import made_by, strength_of
from ddiff.study.folder import Cost
from ddiff.study.plan import drawn_by, fit_options, less, of_train
from ddiff.system.errors import ConfigError
from ddiff.system.files import read_json, write_json
from ddiff.training.turns import Turns

ROUNDS = 12  # at least; more while they take less than SECONDS
MOST_ROUNDS, SECONDS = 60, 20.0


class TooMany(Exception):
    """Several trainings at a time take more memory than there is."""


def measured(
    trainings: dict[str, list[str]], say: Callable[[str], None] = lambda line: None
) -> dict[str, dict[str, Any]]:
    """The cost of each training, or why it cannot be: {name: {"cost": ...} or {"why": ...}}.

    All take turns. Where they do not fit into the memory together, the first one takes turns with
    half of the others at a time, or a quarter, and so on.
    """
    if not trainings:  # all are known, and only how samples are drawn is asked
        return {}
    with contextlib.suppress(Exception):  # is said below
        Turns(next(iter(trainings.values())))  # pays for what comes once in a process for all
    first, *others = trainings
    found: dict[str, dict[str, Any]] = {}
    size = len(others)
    while others or first not in found:
        group = [first, *others[:size]]
        try:
            costs = in_turns({name: trainings[name] for name in group}, say)
        except TooMany:
            size = max(1, (len(group) - 1) // 2)
            say(f"out of memory: {size + 1} trainings at a time")
            continue
        finally:
            gc.collect()
        ratio = 1.0  # between what the first one took in its first group, and in this
        if "cost" in found.get(first, {}) and "cost" in costs[first]:
            ratio = found[first]["cost"]["step"] / costs[first]["cost"]["step"]
        for name in group:
            if "cost" in costs[name]:
                costs[name]["cost"] = asdict(Cost(**costs[name]["cost"]).scaled(ratio))
            found.setdefault(name, costs[name])
        others = others[size:]
    return {name: found[name] for name in trainings}


def in_turns(trainings: dict[str, list[str]], say: Callable[[str], None]) -> dict[str, Any]:
    """The costs of trainings that are all in memory. Raises TooMany where they do not fit."""
    found: dict[str, dict[str, Any]] = {}
    alive: dict[str, Turns] = {}

    def failed(name: str, error: Exception) -> None:
        """Note why a variant cannot run: it is a row of the study."""
        why = explain(error, "train")[0]
        if "out of memory" in why and len(trainings) > 2:
            raise TooMany from None
        found[name] = {"why": why}
        say(f"{name}: {why}")

    for name, words in trainings.items():
        try:
            alive[name] = Turns(words)
        except Exception as error:
            failed(name, error)
    seconds: dict[str, list[float]] = {name: [] for name in alive}
    began, rounds = time.perf_counter(), 0
    order = random.Random(0)  # of turns in a round, so that no place in it favours a training
    while alive and (
        rounds < ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - began < SECONDS)
    ):
        rounds += 1
        for name, turns in order.sample(list(alive.items()), len(alive)):
            start = time.perf_counter()
            try:
                turns.step()
            except Exception as error:
                failed(name, error)
                del alive[name]
                continue
            seconds[name].append(time.perf_counter() - start)
    steps = step_seconds({name: seconds[name][1:] for name in alive})
    for name, turns in alive.items():
        step = steps[name]
        scoring, often = turns.scoring()
        start = max(0.0, turns.first - step)
        cost = Cost(
            step, start, scoring, often, turns.load, turns.forward(), turns.state_bytes(),
            turns.recipe_steps,
        )  # fmt: skip
        found[name] = {"cost": asdict(cost), "rounds": rounds}
        say(f"{name}: {step * 1e3:.1f} ms a step")
    return found


def step_seconds(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The cost of a step of each training, from the seconds of each in the same rounds.

    Each is compared with the first one round by round, so that a busy machine is busy for both.
    A median ratio within two standard errors of 1 counts as 1: noise gives no one more steps.
    """
    if not seconds:
        return {}
    first = np.array(next(iter(seconds.values())))
    base, found = float(np.median(first)), {}
    for name, of in seconds.items():
        low, ratio, high = np.quantile(np.array(of) / first, [0.25, 0.5, 0.75])
        error = 1.25 * (high - low) / 1.349 / len(first) ** 0.5  # of a median
        found[name] = base if abs(ratio - 1) <= 2 * error else base * float(ratio)
    return found


def combined(parts: list[dict[str, dict[str, Any]]]) -> dict[str, Cost | str]:
    """Costs of what several slots measured at the same time, or why there is none.

    The median over the slots of each number.
    """
    found: dict[str, Cost | str] = {}
    for name in parts[0]:
        whys = [part[name]["why"] for part in parts if "why" in part[name]]
        costs = [part[name]["cost"] for part in parts if "cost" in part[name]]
        found[name] = (
            whys[0] if whys else Cost(**{key: median(c[key] for c in costs) for key in costs[0]})
        )
    return found


def drawing(words: list[str], most: float | None) -> dict[str, Any]:
    """Return the evaluations of the net that a sample of a variant takes, and its number of steps.

    `most`: the largest number of evaluations; the number of steps is then chosen.
    """
    fit = fit_options("plan", words)
    if fit:  # a step of whose plan is an evaluation, as with this solver
        words = [*less(words, "solver"), "solver=dpmpp_2m"]
    options = train_options(*of_train(words))
    if not is_generative(options.module):
        return {"evaluations": 0, "num_steps": None}
    schedule, guidance = build(options.schedule), build_guidance(options.guidance)
    drawn = drawn_by("drawing", words)
    labelled = module_class(options.module).conditional and "none" not in (
        options.sampling.y, drawn.y,
    )  # fmt: skip

    def evaluations(num_steps: int | None) -> int:
        if num_steps is not None:
            options.solver.num_steps = num_steps
        plan = build_plan(options.solver, schedule)
        if drawn.from_image:
            known = bool(drawn.inpaint) or max(drawn.upscale, drawn.slices) > 1
            plan = made_by(plan, strength_of(drawn.strength, known), drawn.jumps)
        twice = int((guidance.weights(plan) != 0).sum()) if guidance.asks_twice(labelled) else 0
        return (len(plan) + twice) * (1 + drawn.posterior)

    steps = fit.num_steps if fit else None
    if most is not None:
        steps = next((n for n in range(int(most), 0, -1) if evaluations(n) <= most), None)
        if steps is None:
            raise ConfigError(f"budget: {most:g} evaluations are fewer than one step takes")
    found = {"evaluations": evaluations(steps), "num_steps": None if most is None else steps}
    if fit:  # its evaluations, a step of Adam as three
        long = (fit.num_samples + fit.held_out) * fit.solver.num_steps
        found["fit"] = long + 3 * fit.iterations * fit.batch_size * steps
    return found


def drawings(variants: dict[str, list[str]], most: float | None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, words in variants.items():
        try:
            found[name] = drawing(words, most)
        except Exception as error:
            found[name] = {"why": explain(error, "train")[0]}
    return found


def main() -> None:
    """Measures what `<folder>/ask.json` names, and writes `<folder>/costs.json`."""
    folder = Path(sys.argv[1])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    began = time.perf_counter()
    ask = read_json(folder / "ask.json")
    found = measured(ask["trainings"], lambda line: print(line, flush=True))
    drawn = drawings(ask["variants"], ask["most_evaluations"])
    seconds = time.perf_counter() - began
    write_json(folder / "costs.json", {"costs": found, "drawings": drawn, "seconds": seconds})


if __name__ == "__main__":
    main()

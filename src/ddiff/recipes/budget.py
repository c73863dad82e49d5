"""A training that fits a budget of time and memory: its net, its batch and its number of steps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ddiff.config.levers import ACCUMULATE, BATCH, LEVERS
from ddiff.config.options import Train, typed
from ddiff.config.trees import resolved
from ddiff.config.validation import given_options, validate
from ddiff.memory.budget import GB, fitting
from ddiff.recipes.advice import ENOUGH, SPEED, Choice, batches, nets, parts
from ddiff.recipes.fingerprint import Fingerprint
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError
from ddiff.training.building import fill_in_data_facts
from ddiff.training.turns import Turns

OF_STEPS = 0.9  # of the time; the rest is for validations, pictures and checkpoints
TIMED, LONGEST = 6, 20.0  # steps that are timed, and the seconds after which no more are
CLOCK = time.perf_counter  # a busy device is slow: what a training will find there


@dataclass(frozen=True)
class Training:
    """A net and a batch that fit; the lengths follow from the number of steps."""

    choices: list[Choice]
    steps: int
    batch: int  # samples of a micro-batch
    parts: int  # micro-batches of a step
    step: float  # seconds
    device: torch.device


def within_budget(
    seconds: float, memory: float | None, words: Sequence[str], facts: Fingerprint, data: Any
) -> Training:
    """Return the first net that has enough steps in the budget, and its batch; where there is none,
    those with the most steps.

    words: options of the data and the device. memory: bytes.
    """
    rules, found = parts(facts), None
    for net in nets(facts):
        fit = _of_net([*rules, *net], seconds, memory, words, data)
        if fit and (found is None or fit.steps > found.steps):
            found = fit
        if found and found.steps >= ENOUGH:
            break
    if found is None:
        assert memory is not None
        raise ConfigError(f"memory: no net for these data fits into {memory / GB:g} GB")
    return found


def _of_net(
    choices: list[Choice], seconds: float, memory: float | None, words: Sequence[str], data: Any
) -> Training | None:
    """The largest batch with enough steps; None where the net does not fit into the memory."""
    device = device_for(_options(choices, words, 1).trainer.accelerator)
    sizes, fit = batches(len(data.train), len(data.shape) - 1, device.type == "cuda"), None
    while sizes:
        batch, *sizes = sizes
        step = step_seconds(_options(choices, words, batch), data)
        fit = Training(choices, steps_in(seconds, step), batch, 1, step, device)
        if fit.steps >= ENOUGH:
            break
        if sizes and fit.steps * batch / sizes[-1] < ENOUGH:
            sizes = sizes[-1:]  # even the smallest has too few
    assert fit is not None
    if memory is None:
        return fit
    options = _options(choices, words, fit.batch)
    fill_in_data_facts(options, data)
    setting = fitting(options, device, memory)
    if setting is None:
        return None
    said = f"{setting.peak.total / GB:.3g} GB predicted"
    limit = Choice("memory_budget_gb", memory / GB, "what was asked for; train looks again", said)
    kept = {option: value for option, value in setting.setting.items() if option != BATCH}
    levers = [Choice(option, value, _about(option), said) for option, value in kept.items()]
    named = {choice.option for choice in levers}
    choices = [*(c for c in choices if c.option not in named), *levers, limit]
    batch, times = setting.setting.get(BATCH, fit.batch), setting.setting.get(ACCUMULATE, 1)
    step = step_seconds(_options(choices, words, batch), data) if levers else fit.step
    return Training(choices, steps_in(seconds, step), batch, times, step, device)


def steps_in(seconds: float, step: float) -> int:
    return max(1, int(OF_STEPS * seconds / step))


def step_seconds(options: Train, data: Any) -> float:
    """Return the seconds of a step of a training: the median of some, without the first."""
    data.batch_size = options.budget.batch_size
    turns, taken, began = Turns(options, data), [], CLOCK()
    while len(taken) < TIMED and (not taken or CLOCK() - began < LONGEST):
        start = CLOCK()
        turns.step()
        taken.append(CLOCK() - start)
    return median(taken)


def _options(choices: Sequence[Choice], words: Sequence[str], batch: int) -> Train:
    said = [choice.word for choice in choices]
    words = ["~experiment", "name=recipe", *words, *said, f"{BATCH}={batch}"]
    cfg = resolved(given_options("train", words)[0])
    validate(cfg)
    return typed(Train, cfg)


def _about(option: str) -> str:
    """Return what a lever of the memory does, as ddiff.config.levers says it."""
    return next((about for name, about in LEVERS.items() if name.startswith(option)), SPEED)

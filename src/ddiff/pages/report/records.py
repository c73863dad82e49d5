"""What a run left: config, numbers, curves, evaluations. What is broken is said, not raised."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddiff.config.trees import flat, with_current_targets
from ddiff.pages.report.events import Curve, read_scalars
from ddiff.system.errors import DdiffError

LOSSES = ("train/loss", "val/loss")
SPEED = "speed/samples_per_second"


@dataclass(frozen=True)
class Measured:
    """A figure as an evaluation left it; None where it is not a number."""

    name: str
    protocol_id: str
    value: float | None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    better: str | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one set of samples. `step` is None for samples of no known weights."""

    name: str
    step: int | None
    images: float | None
    seconds: float | None  # of training
    sampling: Mapping[str, Any]
    figures: list[Measured]


@dataclass(frozen=True)
class Record:
    path: Path
    options: dict[str, Any]  # flat, as configured
    metrics: dict[str, Any]
    environment: dict[str, Any]
    curves: dict[str, Curve]
    evaluations: list[Evaluation]
    troubles: list[str]
    profiles: dict[str, dict[str, Any]]  # of the training, and of samplings by name

    @property
    def seed(self) -> Any:
        return self.options.get("seed")

    @property
    def overrides(self) -> dict[str, str]:
        """What the command changed of its recipe: `net.patch_size` -> `1`, {} where unknown."""
        words = self.environment.get("overrides") or self.environment.get("command") or []
        pairs = [str(word).lstrip("+~").partition("=") for word in words if "=" in str(word)]
        return {name.partition("@")[0].replace("/", "."): value for name, _, value in pairs}

    @property
    def max_steps(self) -> int:
        return int(finite(self.options.get("budget.max_steps")) or 0)

    @property
    def step(self) -> int:
        """Optimiser steps done, as far as is known."""
        logged = [int(self.curves[name].steps.max()) for name in LOSSES if name in self.curves]
        return max([int(finite(self.metrics.get("step")) or 0), *logged])

    @property
    def images_per_step(self) -> float | None:
        """Batch x accumulation x devices; None where the number of devices was left to the machine
        and no evaluation tells."""
        for evaluation in self.evaluations:
            if evaluation.images and evaluation.step:
                return evaluation.images / evaluation.step
        get = self.options.get
        devices = get("trainer.devices", 1)
        if devices in ("auto", "-1", -1):
            devices = 1 if get("trainer.accelerator") == "cpu" else None
        elif isinstance(devices, str):
            devices = int(devices) if devices.isdigit() else devices.count(",") + 1
        batch = finite(get("data.batch_size", get("budget.batch_size")))
        if not devices or not batch:
            return None
        accumulate = finite(get("trainer.accumulate_grad_batches")) or 1
        return batch * accumulate * devices * (finite(get("trainer.num_nodes")) or 1)

    @property
    def seconds(self) -> float | None:
        """Of training, by the clock of the events."""
        ends = [float(curve.seconds.max()) for curve in self.curves.values()]
        return max(ends) if ends else None

    @property
    def samples_per_second(self) -> float | None:
        logged = self.curves.get(SPEED)
        last = None if logged is None else finite(logged.values[-1])
        return finite(self.metrics.get("samples_per_second")) or last

    @property
    def memory_mb(self) -> float | None:
        return finite(self.metrics.get("peak_memory_mb"))

    @property
    def state(self) -> str:
        if self.metrics:
            return "finished"
        return f"unfinished: step {self.step} of {self.max_steps}"

    def seconds_at(self, step: int) -> float | None:
        """Training time up to a step, between the events around it."""
        if not self.curves:
            return None
        curve = max(self.curves.values(), key=lambda c: len(c.steps))
        return float(np.interp(step, [0, *curve.steps], [0, *curve.seconds]))


def read_run(path: Path) -> Record:
    """Raises DdiffError where not even the config can be read."""
    troubles: list[str] = []
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"), resolve=True)
        tree = with_current_targets(tree)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise DdiffError(f"config.yaml cannot be read ({_short(error)})") from error
    if not isinstance(tree, dict) or not tree:
        raise DdiffError("config.yaml holds no options")
    metrics = _json(path / "metrics.json", troubles)
    if not (path / "metrics.json").exists():
        troubles.append("unfinished: no metrics.json")
    files = sorted((path / "evaluations").glob("*.json"))
    found = [_evaluation(file, troubles) for file in files]
    return Record(
        path=path,
        options=flat(tree),
        metrics=metrics,
        environment=_json(path / "environment.json", troubles),
        curves=read_scalars(path / "tensorboard", (*LOSSES, SPEED)),
        evaluations=[evaluation for evaluation in found if evaluation is not None],
        troubles=troubles,
        profiles=_profiles(path, troubles),
    )


def finite(value: Any) -> float | None:
    """A number, or None for what is none or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else None


def _json(path: Path, troubles: list[str]) -> dict[str, Any]:
    """An object out of a file, {} where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        troubles.append(f"{path.name} cannot be read ({_short(error)})")
        return {}
    if not isinstance(value, dict):
        troubles.append(f"{path.name} holds no object")
        return {}
    return value


def _profiles(run: Path, troubles: list[str]) -> dict[str, dict[str, Any]]:
    places = {"training": run / "profile"}
    for folder in sorted((run / "samples").glob("*_profile")):
        places[f"sampling {folder.name.removesuffix('_profile')}"] = folder
    found = {}
    for name, folder in places.items():
        profile = _json(folder / "profile.json", troubles)
        if {"phases", "step_ms", "device"} <= profile.keys():
            found[name] = profile
        elif profile:
            troubles.append(f"{folder.name}/profile.json is not a profile")
    return found


def _evaluation(path: Path, troubles: list[str]) -> Evaluation | None:
    value = _json(path, troubles)
    if not value:
        return None
    try:
        step = finite(value.get("step"))
        return Evaluation(
            name=path.stem,
            step=None if step is None else int(step),
            images=finite(value.get("images_seen")),
            seconds=finite(value.get("train_seconds")),
            sampling=dict(value.get("sampling") or {}),
            figures=list(_figures(value["figures"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        troubles.append(f"{path.name} is not an evaluation ({_short(error)})")
        return None


def _figures(figures: Iterable[Mapping[str, Any]]) -> Iterable[Measured]:
    for figure in figures:
        numbers = {key: finite(figure.get(key)) for key in ("value", "low", "high")}
        better = figure.get("better")
        yield Measured(
            name=str(figure["name"]),
            protocol_id=str(figure["protocol_id"]),
            n=figure.get("n"),
            better=better if better in ("lower", "higher") else None,
            protocol=dict(figure.get("protocol") or {}),
            **numbers,
        )


def _short(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:80] if lines else type(error).__name__

"""Records of runs: config, numbers, curves, figures and their costs.

What is broken is reported as a trouble, not raised.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddiff.config.trees import flat, with_current_targets
from ddiff.pages.report.events import Curve, read_scalars
from ddiff.pages.report.figures import TRAIN_LOSS, VAL_LOSS, Point
from ddiff.system.errors import DdiffError

SPEED = "speed/samples_per_second"
COMPARED = ("schedule.", "data.", "objective._target_", "module._target_")  # validation losses by
FREE = ("data.batch_size", "data.num_workers", "data.seed")  # what a validation loss does not say


@dataclass(frozen=True)
class Record:
    path: Path
    options: dict[str, Any]  # flat, as configured
    metrics: dict[str, Any]
    environment: dict[str, Any]
    curves: dict[str, Curve]
    profiles: dict[str, dict[str, Any]]  # of the training, and of samplings by name
    images_per_step: float | None
    troubles: list[str]
    points: list[Point] = field(default_factory=list)  # evaluations, then validation losses

    @property
    def seed(self) -> Any:
        return self.options.get("seed")

    @property
    def overrides(self) -> dict[str, str]:
        """Changes that the command made to its recipe: `net.patch_size` -> `1`; {} if unknown."""
        words = self.environment.get("overrides") or self.environment.get("command") or []
        pairs = [str(word).lstrip("+~").partition("=") for word in words if "=" in str(word)]
        return {name.partition("@")[0].replace("/", "."): value for name, _, value in pairs}

    @property
    def max_steps(self) -> int:
        return int(finite(self.options.get("budget.max_steps")) or 0)

    @property
    def step(self) -> int:
        """Optimiser steps done, as far as is known."""
        losses = [self.curves[name] for name in (TRAIN_LOSS, VAL_LOSS) if name in self.curves]
        logged = [int(curve.steps.max()) for curve in losses]
        return max([int(finite(self.metrics.get("step")) or 0), *logged])

    @property
    def seconds(self) -> float | None:
        """Seconds of training, by the clock of the events."""
        return max((float(curve.seconds.max()) for curve in self.curves.values()), default=None)

    @property
    def samples_per_second(self) -> float | None:
        logged = self.curves.get(SPEED)
        last = None if logged is None else finite(logged.values[-1])
        return finite(self.metrics.get("samples_per_second")) or last

    @property
    def memory_mb(self) -> float | None:
        return finite(self.metrics.get("peak_memory_mb"))

    @property
    def device(self) -> str | None:
        name = self.environment.get("device_name") or self.environment.get("device")
        return str(name) if name else None

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
    options, files = flat(tree), sorted((path / "evaluations").glob("*.json"))
    evaluations = {file: _json(file, troubles) for file in files}
    record = Record(
        path=path,
        options=options,
        metrics=metrics,
        environment=_json(path / "environment.json", troubles),
        curves=read_scalars(path / "tensorboard", (TRAIN_LOSS, VAL_LOSS, SPEED)),
        profiles=_profiles(path, troubles),
        images_per_step=_images_per_step(options, evaluations.values()),
        troubles=troubles,
    )
    for file, evaluation in evaluations.items():
        try:
            record.points.extend(_points(record, file.stem, evaluation) if evaluation else [])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            troubles.append(f"{file.name} is not an evaluation ({_short(error)})")
    for evaluation in _validations(record):
        record.points.extend(_points(record, VAL_LOSS, evaluation))
    return record


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


def _short(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:80] if lines else type(error).__name__


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


def _images_per_step(
    options: Mapping[str, Any], evaluations: Iterable[Mapping[str, Any]]
) -> float | None:
    """Batch x accumulation x devices; None where the number of devices was left to the machine and
    no evaluation tells."""
    for evaluation in evaluations:
        images, step = finite(evaluation.get("images_seen")), finite(evaluation.get("step"))
        if images and step:
            return images / step
    get = options.get
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


def _points(record: Record, name: str, evaluation: Mapping[str, Any]) -> list[Point]:
    """The figures of an evaluation, and what its samples cost."""
    step, seconds, images = (
        finite(evaluation.get(key)) for key in ("step", "train_seconds", "images_seen")
    )
    if step is not None and seconds is None:
        seconds = record.seconds_at(int(step))
    if step is not None and images is None and record.images_per_step:
        images = int(step) * record.images_per_step
    sampling = dict(evaluation.get("sampling") or {})
    costs = {
        "seconds": seconds,
        "images": images,
        "evaluations": finite(sampling.get("evaluations")),
        "per_sample": finite(sampling.get("seconds_per_sample")),
        "memory": record.memory_mb,
    }
    return [
        Point(
            name=str(figure["name"]),
            protocol_id=str(figure["protocol_id"]),
            protocol=dict(figure.get("protocol") or {}),
            better=better if (better := figure.get("better")) in ("lower", "higher") else None,
            evaluation=name,
            step=None if step is None else int(step),
            way=way_of(sampling),
            drawn=way_of({**sampling, "weights": None}),
            length=finite(sampling.get("weights")),
            costs=costs,
            n=figure.get("n"),
            value=finite(figure.get("value")),
            low=finite(figure.get("low")),
            high=finite(figure.get("high")),
        )
        for figure in evaluation["figures"]
    ]


def _validations(record: Record) -> Iterator[dict[str, Any]]:
    """The validation losses as evaluations; the protocol is what two of them must share."""
    if VAL_LOSS not in record.curves:
        return
    protocol = {
        name.removesuffix("._target_"): shown(name, value)
        for name, value in record.options.items()
        if name.startswith(COMPARED) and name not in FREE
    }
    limit = record.options.get("trainer.limit_val_batches", "None")
    if limit != "None":
        protocol["batches"] = f"{limit} of {record.options.get('data.batch_size')}"
    text = json.dumps(protocol, sort_keys=True, default=str)
    figure = {
        "name": VAL_LOSS,
        "protocol_id": hashlib.sha256(text.encode()).hexdigest()[:6],
        "protocol": protocol,
        "better": "lower",
    }
    curve = record.curves[VAL_LOSS]
    for step, seconds, value in zip(curve.steps, curve.seconds, curve.values, strict=True):
        yield {"step": step, "train_seconds": seconds, "figures": [{**figure, "value": value}]}


def way_of(sampling: Mapping[str, Any]) -> str:
    """The way samples were drawn, in short: `ddim 50 w=2`."""
    get = sampling.get
    words = [str(get(name) or "") for name in ("solver", "num_steps")]
    words += [f"w={get('guidance'):g}"] if finite(get("guidance")) else []
    words += [str(get("rule"))] if get("rule") else []
    words += [f"from {get('from')}"] if get("from") else []
    words += [f"{get('weights')} weights"] if get("weights") not in (None, "ema") else []
    words += [str(get("precision") or "")]
    return " ".join(filter(None, words))


def shown(name: str, value: Any) -> Any:
    """An option's value as YAML says it; a target by its last name."""
    if name.endswith("_target_"):
        return str(value).rpartition(".")[2]
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), value)

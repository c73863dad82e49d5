"""Runs as a training leaves them, written by hand: every number in them is chosen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

START = 1_700_000_000.0


def config(**changes: Any) -> dict[str, Any]:
    """A small config; `timesteps__k=0.5` sets timesteps.k."""
    tree: dict[str, Any] = {
        "name": "digits_cfg",
        "seed": 0,
        "run_dir": None,
        "budget": {"max_steps": 40, "batch_size": 8},
        "data": {"_target_": "ddiff.data.Digits", "batch_size": 8, "seed": 0, "size": 8},
        "objective": {"_target_": "ddiff.diffusion.objectives.V"},
        "schedule": {"_target_": "ddiff.diffusion.schedules.cosine", "T": 1000},
        "timesteps": {"_target_": "ddiff.diffusion.timesteps.Uniform"},
        "trainer": {"devices": 1, "accelerator": "cpu", "accumulate_grad_batches": 1},
    }
    for name, value in changes.items():
        *groups, last = name.split("__")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    tree["data"]["seed"] = changes.get("data__seed", tree["seed"])
    return tree


def events(
    folder: Path,
    rows: list[tuple[str, int, float, float]],
    started: float = START,
    resumed: int | None = None,
) -> Path:
    """An event file of one process; rows are (tag, step as logged, seconds since its start, value).
    `resumed` is the step from which a logger that resumes purges."""
    path = folder / f"events.out.tfevents.{started:.0f}.host"
    folder.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=started, file_version="brain.Event:2").SerializeToString())
        if resumed is not None:
            log = SessionLog(status=SessionLog.START)
            event = Event(wall_time=started, step=resumed, session_log=log)
            writer.write(event.SerializeToString())
        for tag, step, seconds, value in rows:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            event = Event(wall_time=started + seconds, step=step, summary=summary)
            writer.write(event.SerializeToString())
    return path


def run(path: Path, losses: tuple[float, ...] = (0.4, 0.3), **changes: Any) -> Path:
    """A finished run of 40 steps, ten seconds; `losses` are validated evenly over them."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config(**changes)))
    every = 40 // len(losses)
    rows = [("train/loss", 4 * i + 3, 1.0 * (i + 1), 1 / (i + 1)) for i in range(10)]
    rows += [
        ("val/loss", every * (i + 1) - 1, every * (i + 1) / 4, v) for i, v in enumerate(losses)
    ]
    events(path / "tensorboard", rows)
    metrics = {"step": 40, "samples_per_second": 32.0, "peak_memory_mb": 500, "seconds": 12.0}
    (path / "metrics.json").write_text(json.dumps(metrics))
    facts = {"device": "cpu", "device_name": "Some CPU", "git_commit": "abcdef1234567"}
    (path / "environment.json").write_text(json.dumps(facts))
    return path


def figure(name: str = "fid", value: float | None = 3.0, **more: Any) -> dict[str, Any]:
    plain = {"n": 100, "low": None, "high": None, "better": "lower", "protocol": {"reference": "A"}}
    return {"name": name, "value": value, "protocol_id": "aaaaaa", **plain, **more}


def evaluate(
    path: Path,
    name: str,
    figures: list[dict[str, Any]],
    step: int | None = 40,
    seconds: float | None = None,
    **sampling: Any,
) -> None:
    """An evaluation JSON in the run; DDIM with 50 steps where nothing else is said."""
    way = {"solver": "ddim", "num_steps": 50, "evaluations": 50, "seconds_per_sample": 0.5}
    value = {
        "source": "samples.npy",
        "step": step,
        "images_seen": None if step is None else 8 * step,
        "train_seconds": seconds,
        "sampling": {**way, **sampling},
        "figures": figures,
        "omitted": {},
    }
    (path / "evaluations").mkdir(exist_ok=True)
    (path / "evaluations" / f"{name}.json").write_text(json.dumps(value))


def samples(path: Path, array: np.ndarray, name: str = "step_000040") -> None:
    (path / "samples").mkdir(exist_ok=True)
    np.save(path / "samples" / f"{name}.npy", array.astype(np.float32))


def ball(radius: float, size: int = 16) -> np.ndarray:
    """[1, D, H, W]: solid within `radius` of a place off the middle, so that turning shows."""
    z, y, x = np.mgrid[:size, :size, :size] - (size - 1) / 2
    return np.clip(radius - np.sqrt((x - 3) ** 2 + (y + 2) ** 2 + z**2), -1, 1)[None]

"""Measures the training step: ddiff against a bare loop, and what each lever gives at 64^3.

    python experiments/training_step/measure.py            # minutes on two cores

Everything is interleaved: each round times every variant once; medians and quartiles over rounds.
Writes results.json and README.md beside this file.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_module
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig

from ddiff import build
from ddiff.callbacks import Checkpoints, Progress, StopOnNaN
from ddiff.config import resolved, validate
from ddiff.environment import environment
from ddiff.modules.plugins import Board

HERE = Path(__file__).parent
FULL = ("net=unet_patch4", "net.patch_size=1", "net.input_skip=false")
LEVERS = {  # at 64^3: the same U-Net, one lever more in every row
    "full resolution, fp32, contiguous": (*FULL, "precision=fp32", "contiguous", "batch=1"),
    "+ channels last": (*FULL, "precision=fp32", "batch=1"),
    "+ bf16": (*FULL, "precision=bf16", "batch=1"),
    "+ patch stem 4": ("net=unet_patch4", "precision=bf16", "batch=1"),
    "+ batch 8": ("net=unet_patch4", "precision=bf16", "batch=8"),
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = resolved(compose("train", list(overrides)))
    validate(cfg)
    return cfg


def bare_step(cfg: DictConfig, contiguous: bool = False) -> Callable[[], None]:
    """The same arithmetic without a framework: data, noise, forward, loss, backward, clipping,
    AdamW, averaged weights."""
    device = torch.device("cpu")
    data = build.build(cfg.data)
    data.setup("fit")
    build.fill_in_data_facts(cfg, data)
    module = build.build_module(cfg, build.build_precision(cfg, device))
    net, ema, schedule, objective = module.net, module.ema, module.schedule, module.objective
    if contiguous:
        net.to(memory_format=torch.contiguous_format)
    optimizer = build.build(cfg.optimizer)(net.parameters())
    order = iter(data.train_dataloader())
    pairs = list(ema.parameters()), list(net.parameters())
    clip = cfg.trainer.gradient_clip_val

    def step() -> None:
        x_0, _ = next(order)
        t = torch.randint(1, schedule.T + 1, (len(x_0),))
        eps = torch.randn_like(x_0)
        x_t = schedule.add_noise(x_0, t, eps)
        with module.precision.autocast(device):
            pred = net(x_t, t - 1, None)
        error = pred.float() - objective.target(schedule, x_0, eps, t)
        loss = error.square().flatten(1).mean(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(*pairs, 0.001)
        loss.item()

    return step


class Paced(Callback):
    """Times whole steps of the trainer, from batch end to batch end, with a bare step between."""

    def __init__(self, bare: Callable[[], float], rounds: int) -> None:
        self.bare, self.rounds = bare, rounds
        self.times: dict[str, list[float]] = {"bare loop": [], "ddiff": []}
        self.since: float | None = None

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if self.since is not None:
            self.times["ddiff"].append(time.perf_counter() - self.since)
        self.times["bare loop"].append(self.bare())
        trainer.should_stop = len(self.times["ddiff"]) >= self.rounds
        self.since = time.perf_counter()


def framework_against_bare(rounds: int, *overrides: str) -> dict[str, list[float]]:
    """ddiff's own trainer with its callbacks and logger, a bare step after each of its steps."""
    cfg = composed("budget.max_steps=100000", "budget.val_every=100000", *overrides)
    paced = Paced(timed(bare_step(cfg.copy())), rounds + 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        data = build.build(cfg.data)
        data.setup("fit")
        build.fill_in_data_facts(cfg, data)
        precision = build.build_precision(cfg, torch.device("cpu"))
        nan = StopOnNaN()
        callbacks = [
            Progress(cfg.data.batch_size, cfg.budget.log_every),
            nan,
            Checkpoints(path, {}, 10**9, nan),
            paced,
        ]
        trainer = build.build_trainer(cfg, path, Board(path), callbacks, precision)
        trainer.fit(build.build_module(cfg, precision), data)
    return {name: times[2:] for name, times in paced.times.items()}


def timed(step: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    return run


def levers(rounds: int) -> dict[str, list[float]]:
    """Seconds per volume of every lever, interleaved."""
    steps, batches = {}, {}
    for name, words in LEVERS.items():
        overrides = [w for w in words if "=" in w and not w.startswith("batch=")]
        batches[name] = int(next(w for w in words if w.startswith("batch="))[6:])
        cfg = composed(*overrides, f"budget.batch_size={batches[name]}")
        steps[name] = timed(bare_step(cfg, contiguous="contiguous" in words))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            seconds = step() / batches[name]
            if round_:
                times[name].append(seconds)
    return times


def table(title: str, times: dict[str, list[float]], unit: str) -> list[str]:
    first = statistics.median(next(iter(times.values())))
    lines = [f"| {title} | median {unit} | quartiles | against the first |", "|---|---|---|---|"]
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        ratio = first / middle
        lines.append(
            f"| {name} | {middle * 1e3:.1f} | {low * 1e3:.1f} to {high * 1e3:.1f} | {ratio:.3g}x |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    results = {
        "voxel_baseline": framework_against_bare(args.rounds),
        "digits_ddpm": framework_against_bare(10 * args.rounds, "experiment=digits_ddpm"),
        "levers": levers(max(5, args.rounds // 5)),
    }
    where = environment(torch.device("cpu"), "bfloat16")
    report = [
        "# The training step",
        "",
        "*Does the framework cost anything over a bare loop doing the same arithmetic, and what",
        "does each lever give at 64^3?* Written by `python experiments/training_step/measure.py`",
        f"on {where['device_name']}, {where['threads']} threads, torch {torch.__version__}.",
        "Interleaved steps, medians.",
        "",
        *table("`voxel_baseline`, a step of 8", results["voxel_baseline"], "ms"),
        *table("`digits_ddpm`, a step of 128", results["digits_ddpm"], "ms"),
        *table("64^3, one training step, per volume", results["levers"], "ms"),
    ]
    (args.out / "README.md").write_text("\n".join(report))
    (args.out / "results.json").write_text(json.dumps({"environment": where, **results}) + "\n")
    print("\n".join(report))


if __name__ == "__main__":
    main()

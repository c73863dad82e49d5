"""Measures the training step: ddiff and its monitoring against a bare loop, and what each lever
gives at 64^3.

    python experiments/training_step/measure.py            # half an hour on two cores
    python experiments/training_step/measure.py --rounds 8 --only digits_ddpm small --out /tmp/quick

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
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ddiff.build import build_precision
from ddiff.config.options import Train
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.system.environment import environment
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.callbacks import Dashboard, Progress, Resources, Resumed
from ddiff.training.modules import DDPM
from ddiff.training.run import Run

HERE = Path(__file__).parent
# of voxel_baseline when these figures were measured; today's recipe has Muon and random places
OLD = ("data.centre=fixed", "optimizer=adamw", "optimizer.lr=1.0e-3")
PATCH4 = ("backend=eager", "net=unet_patch4")
FULL = (*PATCH4, "net.patch_size=1", "net.input_skip=false")
FULL_RUN, LEAN = "ddiff", "ddiff without its monitoring"
MONITORING = (Dashboard, Progress, Resources, Resumed)
RUNS = {  # title, overrides, blocks of `budget.log_every` steps for one of --rounds
    "voxel_baseline": ("`voxel_baseline`, a step of 8", ("experiment=voxel_baseline", *OLD), 1),
    "digits_ddpm": ("`digits_ddpm`, a step of 128", ("experiment=digits_ddpm",), 3),
    "small": (
        "`digits_ddpm`, a small net, a step of 16",
        (
            "experiment=digits_ddpm",
            "net.channels=[8,16]",
            "net.num_blocks=1",
            "net.mid_attention=false",
            "budget.batch_size=16",
        ),
        20,
    ),
}
LEVERS = {  # at 64^3: the same U-Net, one lever more in every row
    "full resolution, fp32, contiguous": (*FULL, "precision=fp32", "contiguous", "batch=1"),
    "+ channels last": (*FULL, "precision=fp32", "batch=1"),
    "+ bf16": (*FULL, "precision=bf16", "batch=1"),
    "+ patch stem 4": (*PATCH4, "precision=bf16", "batch=1"),
    "+ batch 8": (*PATCH4, "precision=bf16", "batch=8"),
    "+ native": (*PATCH4, "precision=bf16", "batch=8", "backend=native"),
}


def bare_step(cfg: Train, contiguous: bool = False) -> Callable[[], None]:
    """The same arithmetic without a framework: data, noise, forward, loss, backward, clipping,
    AdamW, averaged weights."""
    device = torch.device("cpu")
    data = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    module = build_module(cfg, build_precision(cfg.precision, device))
    assert isinstance(module, DDPM)
    net, ema, schedule, objective = module.net, module.ema, module.schedule, module.objective
    if contiguous:
        net.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    optimizer = build(cfg.optimizer)(net.parameters())
    order = iter(data.train_dataloader())
    averages: list[Tensor] = list(ema.parameters())
    weights: list[Tensor] = list(net.parameters())
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
            torch._foreach_lerp_(averages, weights, 0.001)  # pyright: ignore[reportPrivateImportUsage]
        loss.item()

    return step


class Paced(Callback):
    """Times blocks of steps, each with one report, from its end to the next one's: with monitoring
    and without in turn, and after each of them as many bare steps. Comes last of all callbacks."""

    def __init__(self, bare: Callable[[], float], rounds: int) -> None:
        self.bare, self.rounds = bare, rounds
        self.times: dict[str, list[float]] = {"bare loop": [], FULL_RUN: [], LEAN: []}
        self.hooks: list[float] = []  # seconds inside the monitoring's callbacks, by block
        self.since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        attached: Any = trainer  # its connectors set these two attributes
        self.every: int = attached.log_every_n_steps
        self.callbacks: dict[str, list[Callback]] = {FULL_RUN: list(attached.callbacks), LEAN: []}
        for callback in self.callbacks[FULL_RUN]:
            if isinstance(callback, MONITORING):
                for hook in ("on_train_batch_start", "on_train_batch_end"):
                    setattr(callback, hook, self._summed(getattr(callback, hook)))
            else:
                self.callbacks[LEAN].append(callback)
        self.now, self.inside = FULL_RUN, 0.0

    def _summed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            started = time.perf_counter()
            hook(*args)
            self.inside += time.perf_counter() - started

        return run

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every:
            return
        if self.since is not None:  # the first block warms up
            self.times[self.now].append((time.perf_counter() - self.since) / self.every)
            if self.now == FULL_RUN:
                self.hooks.append(self.inside / self.every)
        self.times["bare loop"].append(sum(self.bare() for _ in range(self.every)) / self.every)
        trainer.should_stop = len(self.times[LEAN]) >= self.rounds
        self.now = LEAN if self.now == FULL_RUN else FULL_RUN
        trainer.callbacks = self.callbacks[self.now]  # pyright: ignore[reportAttributeAccessIssue]
        self.inside, self.since = 0.0, time.perf_counter()


def framework_against_bare(rounds: int, *overrides: str) -> dict[str, Any]:
    """A real run, with every callback that it has, and bare steps between its own."""
    quiet = ("budget.max_steps=1000000", "budget.val_every=1000000", "budget.sample_every=1000000")
    few = ("sampling.num_samples=1", "solver.num_steps=1", "budget.save_every=1000000")
    with tempfile.TemporaryDirectory() as folder:
        same = ("trainer=cpu", "backend=eager")  # arithmetic
        words = [*quiet, *few, f"run_dir={folder}/run", *same, *overrides]
        cfg = train_options(*words)
        paced = Paced(timed(bare_step(train_options(*words))), rounds)
        make = build_trainer

        def with_pacer(cfg: Train, path: Path, logger: Any, callbacks: list, *more: Any) -> Any:
            return make(cfg, path, logger, [*callbacks, paced], *more)

        with patch("ddiff.training.run.build_trainer", with_pacer):
            run = Run(cfg)
            run.fit()
    return {"times": paced.times, "hooks": paced.hooks}


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
        cfg = train_options(*overrides, f"budget.batch_size={batches[name]}")
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
        low, middle, high = (1e3 * q for q in statistics.quantiles(values, n=4))
        ratio = 1e3 * first / middle
        lines.append(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {ratio:.3g}x |")
    return [*lines, ""]


def monitoring(title: str, measured: dict[str, Any]) -> str:
    """The cost by difference of medians, with the middle half of differences of neighbours, and by
    the clock inside the callbacks."""
    times = measured["times"]
    pairs = zip(times[FULL_RUN], times[LEAN], strict=False)
    low, _, high = statistics.quantiles([(a - b) / b for a, b in pairs], n=4)
    lean, bare = statistics.median(times[LEAN]), statistics.median(times["bare loop"])
    full = statistics.median(times[FULL_RUN])
    inside = sum(measured["hooks"]) / sum(times[FULL_RUN])
    return (
        f"| {title} | {inside:.2%} | {full / lean - 1:.2%} | {low:.2%} to {high:.2%} "
        f"| {full / bare - 1:.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=[*RUNS, "levers"], default=[*RUNS, "levers"])
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    results: dict[str, Any] = {
        name: framework_against_bare(blocks * args.rounds, *overrides)
        for name, (_, overrides, blocks) in RUNS.items()
        if name in args.only
    }
    if "levers" in args.only:
        results["levers"] = levers(max(5, args.rounds // 5))
    where = environment(torch.device("cpu"), "bfloat16")
    report = [
        "# The training step",
        "",
        "*What does the framework cost over a bare loop doing the same arithmetic, what its",
        "monitoring, and what does each lever give at 64^3?* Written by",
        "`python experiments/training_step/measure.py` on "
        f"{where['device_name']}, {where['threads']} threads, torch {torch.__version__}.",
        "Medians of blocks of 10 steps, each with one report, interleaved in one process. The run",
        "is a whole one, with every callback of `python -m ddiff.train`; both are `backend=eager`.",
        "",
        "Monitoring is `Progress`, `Resources`, `Resumed` and `Dashboard`: its cost by the clock",
        "inside these callbacks, and by comparison with the blocks that did without them.",
        "",
        "| the step | inside the monitoring | with it over without | middle half "
        "| ddiff over bare |",
        "|---|---|---|---|---|",
        *(monitoring(RUNS[name][0], results[name]) for name in RUNS if name in results),
        "",
    ]
    for name, (title, _, _) in RUNS.items():
        if name in results:
            report += table(title, results[name]["times"], "ms")
    if "levers" in results:
        report += table("64^3, one training step, per volume", results["levers"], "ms")
    (args.out / "README.md").write_text("\n".join(report))
    (args.out / "results.json").write_text(json.dumps({"environment": where, **results}) + "\n")
    print("\n".join(report))


if __name__ == "__main__":
    main()

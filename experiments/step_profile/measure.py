"""Measures where a training step goes, forward and backward, and what feeds it.

    python experiments/step_profile/measure.py            # minutes on two cores

Writes results.json and README.md beside this file. `--cpu-time` counts the processor's seconds
instead of the clock's: for a busy machine, with OMP_NUM_THREADS=1.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from operations import Clock
from parts import loaders, medians, parts

from ddiff.benchmarking.training import Steps
from ddiff.build import build_precision
from ddiff.config.validation import train_options
from ddiff.kernels.measuring import COPY_BYTES, copies
from ddiff.system.devices import keep_freed_memory
from ddiff.system.environment import environment
from ddiff.training.building import build_module
from ddiff.training.modules import DDPM

HERE = Path(__file__).parent
Net = tuple[str, int, tuple[int, ...]]  # experiment, batch, shape of a sample
NETS: dict[str, Net] = {
    "CIFAR net, 35.7 M parameters, batch 16": ("cifar10_ddpm", 16, (3, 32, 32)),
    "voxel net, patch 4, batch 8": ("voxel_baseline", 8, (1, 64, 64, 64)),
}
BACKENDS = ("eager", "native")


def steps(experiment: str, batch: int, shape: tuple[int, ...], backend: str) -> Steps:
    """A training step without the trainer: noise, forward, backward, clipping, optimiser, EMA."""
    cfg = train_options(
        f"experiment={experiment}", f"backend={backend}", "precision=bf16", "trainer=cpu"
    )
    cfg.net.shape, cfg.net.num_classes = list(shape), None
    module = build_module(cfg, build_precision(cfg.precision, torch.device("cpu")))
    assert isinstance(module, DDPM)
    x_0 = torch.rand(batch, *shape) * 2 - 1
    return Steps(module, cfg.trainer.gradient_clip_val, x_0, None)


def profile(net: Net, rounds: int, now: Callable[[], float]) -> dict[str, Any]:
    """Medians over rounds, of the whole without a clock and of each kind with it; all backends take
    turns."""
    calls = {backend: steps(*net, backend) for backend in BACKENDS}
    whole: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    clocks: dict[str, list[Clock]] = {backend: [] for backend in BACKENDS}
    for _ in range(rounds + 1):
        for backend, call in calls.items():
            started = now()
            call()
            whole[backend].append(now() - started)
            with Clock(now) as clock:
                call()
            clocks[backend].append(clock)
    return {
        backend: {"whole": 1e3 * statistics.median(whole[backend][1:]), **summary(own[1:])}
        for backend, own in clocks.items()
    }


def summary(clocks: list[Clock]) -> dict[str, Any]:
    first = clocks[0]

    def median(name: str, what: str) -> float:
        return 1e3 * statistics.median(getattr(clock, what)[name] for clock in clocks)

    kinds = {
        kind: {
            "ms": median(kind, "seconds"),
            "gflop": first.flops[kind] / 1e9,
            "mb": first.bytes[kind] / 1e6,
        }
        for kind in sorted(first.seconds)
    }
    rest = {name: median(name, "others") for name in first.others}
    largest = sorted(rest, key=lambda name: -rest[name])[:10]
    return {"kinds": kinds, "rest": {name: rest[name] for name in largest}}


def peaks(rounds: int, now: Callable[[], float]) -> dict[str, float]:
    """The machine's best rates: GFLOP/s of a bf16 matrix product or convolution, GB/s of a copy."""
    a, b = (torch.randn(1024, 1024).bfloat16() for _ in range(2))
    x = torch.randn(16, 256, 16, 16).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).bfloat16().to(memory_format=torch.channels_last)
    products = {
        "product": (lambda: a @ b, 2 * 1024**3),
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 2 * weight.numel() * 16**3),
    }
    calls = {name: call for name, (call, _) in products.items()}
    seconds = medians({**calls, **copies("cpu")}, rounds, now)
    flops = max(work / seconds.pop(name) for name, (_, work) in products.items())
    return {"gflop_s": flops / 1e9, "gb_s": 2 * COPY_BYTES / min(seconds.values()) / 1e9}


def allocator(rounds: int) -> dict[str, dict[str, float]]:
    """Native steps of the CIFAR net with glibc as it is and with memory kept, in processes of their
    own that take turns."""
    found: dict[str, list[dict[str, float]]] = {"as it is": [], "keep_freed_memory": []}
    for _ in range(rounds):
        for mode, rows in found.items():
            command = [sys.executable, __file__, "--allocator", mode]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        mode: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for mode, rows in found.items()
    }


def under_allocator(mode: str) -> dict[str, float]:
    if mode == "keep_freed_memory":
        keep_freed_memory()
    call = steps(*next(iter(NETS.values())), "native")
    rows = []
    for _ in range(7):
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        call()
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
        busy = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        rows.append((seconds, sum(busy), busy[1], after.ru_minflt - before.ru_minflt))
    names = ("ms", "cpu_ms", "system_ms", "faults")
    scales = (1e3, 1e3, 1e3, 1)
    means = [statistics.mean(column) for column in zip(*rows[3:], strict=True)]
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    scaled = (value * scale for value, scale in zip(means, scales, strict=True))
    return {**dict(zip(names, scaled, strict=True)), "peak_mb": peak}


def kinds_table(found: dict[str, Any], peak: dict[str, float]) -> list[str]:
    """The floor: products at the peak of the multipliers, all else at the copy's bandwidth."""
    lines = ["| kind | GFLOP | " + " | ".join(f"{b} ms | rate | floor ms" for b in found) + " |"]
    lines.append("|---|---|" + "---|---|---|" * len(found))
    kinds = sorted({kind for one in found.values() for kind in one["kinds"]})
    for kind in kinds:
        cells, work = [], 0.0
        for one in found.values():
            row = one["kinds"].get(kind)
            if row is None or row["ms"] < 0.05:
                cells += ["", "", ""]
                continue
            work = row["gflop"]
            rate = work / row["ms"] * 1e3 if work else row["mb"] / row["ms"]
            floor = work / peak["gflop_s"] * 1e3 if work else row["mb"] / peak["gb_s"]
            unit = "GFLOP/s" if work else "GB/s"
            cells += [f"{row['ms']:.1f}", f"{rate:.0f} {unit}", f"{floor:.1f}"]
        if any(cells):
            lines.append(f"| {kind} | {work:.1f} | " + " | ".join(cells) + " |")
    totals = [
        f"{sum(row['ms'] for row in one['kinds'].values()):.0f} | | " for one in found.values()
    ]
    lines.append("| all kinds | | " + " | ".join(totals) + " |")
    wholes = [f"**{one['whole']:.0f}** | | " for one in found.values()]
    lines.append("| **the step, without the clock** | | " + " | ".join(wholes) + " |")
    for backend, one in found.items():
        rest = ", ".join(f"{name} {ms:.1f}" for name, ms in one["rest"].items())
        lines += ["", f"{backend}, the largest of the rest, ms: {rest}."]
    return [*lines, ""]


def rows_table(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    names = list(next(iter(rows.values())))
    lines = [f"| {title} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[n]:.4g}" for n in names) + " |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--allocator", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if args.allocator:
        print(json.dumps(under_allocator(args.allocator)))
        return
    keep_freed_memory()
    now = time.process_time if args.cpu_time else time.perf_counter
    where, peak = environment(torch.device("cpu"), "bfloat16"), peaks(args.rounds, now)
    nets = {name: profile(net, args.rounds, now) for name, net in NETS.items()}
    results = {
        "environment": where,
        "peaks": peak,
        "nets": nets,
        "parts": parts(args.rounds, now),
        "loaders": loaders(20),
        "allocator": allocator(max(1, args.rounds // 3)),
    }
    report = [
        "# Where a training step goes",
        "",
        "*What is worth work, in the step and in what feeds it?* Written by",
        f"`python experiments/step_profile/measure.py` on {where['device_name']}, "
        f"{where['threads']} threads, torch {torch.__version__};",
        f"medians of {args.rounds} rounds"
        f"{', seconds of the processor' if args.cpu_time else ''}. The peaks here: "
        f"{peak['gflop_s']:.0f} GFLOP/s in a bf16 product of matrices or a convolution,",
        f"{peak['gb_s']:.0f} GB/s in a copy. bf16, a clock around every operation. "
        "FLOPs are those of the plain algorithm.",
        "",
        verdict.read_text() if (verdict := args.out / "verdict.md").is_file() else "",
        *(line for n, own in nets.items() for line in (f"## {n}", "", *kinds_table(own, peak))),
        "## Parts alone",
        "",
        *rows_table("forward and backward, batch 16", results["parts"]),
        "## Allocator",
        "",
        *rows_table("a native step of the CIFAR net", results["allocator"]),
        "## Loaders",
        "",
        "Batches of one rank; the trainer pins them where there is a GPU.",
        "",
        *rows_table("data, batch", results["loaders"]),
    ]
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "README.md").write_text("\n".join(report))
    print("\n".join(report))


if __name__ == "__main__":
    main()

"""Measures a training on a quiet machine and beside programs that keep a core busy each, with all
threads, with one, and with the number that threads=auto takes.

    python experiments/busy_machine/measure.py            # five minutes on two cores, else quiet
    python experiments/busy_machine/measure.py --rounds 2 --steps 2 --out /tmp/quick

Everything is interleaved: each round times a block of steps of every row under every load. Medians
and quartiles over rounds. Writes results.json and README.md beside this file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ddiff.benchmarking.training import Steps
from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.system.devices import keep_freed_memory
from ddiff.system.environment import environment
from ddiff.system.threads import Cores, fitting
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules import DDPM

HERE = Path(__file__).parent
RECIPE, BATCH = "voxel_baseline", 8
ALL, ONE, AUTO = "all threads", "one thread", "threads=auto"
BUSY = "while True: pass"
Blocks = dict[str, dict[str, list[dict[str, float]]]]  # load -> row -> a block a round


def training() -> Callable[[], None]:
    """A step of the recipe as it is trained, data included, without the trainer."""
    cfg = train_options(f"experiment={RECIPE}", f"budget.batch_size={BATCH}", "trainer=cpu")
    data = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    module = build_module(cfg, build_precision(cfg.precision, torch.device("cpu")))
    assert isinstance(module, DDPM)
    order = iter(data.train_dataloader())
    steps = Steps(module, cfg.trainer.gradient_clip_val, *next(order))

    def step() -> None:
        steps.x_0, steps.y = next(order)
        steps()

    return step


@contextmanager
def programs(count: int, nice: int) -> Iterator[None]:
    """Context in which `count` other processes keep a core busy each."""
    command = ["nice", "-n", str(nice), sys.executable, "-c", BUSY]
    started = [subprocess.Popen(command) for _ in range(count)]
    time.sleep(0.5)  # until the system has moved them to their cores
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def block(step: Callable[[], None], steps: int, row: str, most: int) -> dict[str, float]:
    """Samples a second of so many steps, and the threads that made them."""
    idle = Cores().idle() if row == AUTO else None
    number = {ALL: most, ONE: 1}.get(row) or (most if idle is None else fitting(idle, most))
    torch.set_num_threads(number)
    step()  # the first one starts or stops threads
    started = time.perf_counter()
    for _ in range(steps):
        step()
    rate = BATCH * steps / (time.perf_counter() - started)
    return {"samples_per_second": rate, "threads": number}


def measure(rounds: int, steps: int, loads: list[int], nice: int, most: int) -> Blocks:
    step = training()
    for _ in range(3):
        step()
    found: Blocks = {str(load): {row: [] for row in (ALL, ONE, AUTO)} for load in loads}
    for turn in range(rounds):
        for load in loads:
            rows = list(found[str(load)].items())
            with programs(load, nice):
                for row, blocks in rows if turn % 2 else rows[::-1]:
                    blocks.append(block(step, steps, row, most))
        print(f"round {turn + 1} of {rounds}", flush=True)
    torch.set_num_threads(most)
    return found


def table(found: Blocks) -> list[str]:
    quiet = median(found["0"][ALL])
    lines = [
        "| beside | row | threads | samples/s, median | quartiles | of all threads when quiet |",
        "|---|---|---|---|---|---|",
    ]
    for load, rows in found.items():
        others = {"0": "nothing", "1": "1 busy program"}.get(load, f"{load} busy programs")
        for row, blocks in rows.items():
            rates = [b["samples_per_second"] for b in blocks]
            low, middle, high = statistics.quantiles(rates, n=4)
            numbers = sorted({int(b["threads"]) for b in blocks})
            threads = " or ".join(map(str, numbers))
            lines.append(
                f"| {others} | {row} | {threads} | {middle:.1f} | {low:.1f} to {high:.1f} "
                f"| {middle / quiet:.2f} |"
            )
    return lines


def median(blocks: list[dict[str, float]]) -> float:
    return statistics.median(b["samples_per_second"] for b in blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8, help="of a block")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1], help="busy programs")
    parser.add_argument("--nice", type=int, default=0, help="of the busy programs")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    keep_freed_memory()
    most = torch.get_num_threads()
    loads = sorted({0, *args.loads})
    where = environment(torch.device("cpu"), "bfloat16")
    found = measure(args.rounds, args.steps, loads, args.nice, most)
    report: list[str] = [
        "# A training beside other programs",
        "",
        "*How fast does a training go beside programs that keep a core busy each, by the number of",
        "its threads?* Written by `python experiments/busy_machine/measure.py` on "
        f"{where['device_name']},",
        f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__}: steps of `{RECIPE}`,"
        f" batch {BATCH}, in blocks of {args.steps}, {args.rounds} rounds;",
        f"busy programs at nice {args.nice}.",
        "Loads and rows take turns in one process. `threads=auto` is decided before each block.",
        "",
        *table(found),
        "",
    ]
    results: dict[str, Any] = {"environment": where, "blocks": found}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results) + "\n")
    (args.out / "README.md").write_text("\n".join(report))
    print("\n".join(report))


if __name__ == "__main__":
    main()

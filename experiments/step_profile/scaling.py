"""Measures what of a training step scales with threads, by kind of operation.

    python experiments/step_profile/scaling.py            # two minutes on two cores, else quiet

One thread and all of them take turns. With t(1) and t(n) of a kind, its serial part is what is left
when the rest is n times as fast: s = (n t(n) - t(1)) / (n - 1). Waiting at barriers counts as
serial. Writes scaling.json and scaling.md beside this file.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measure import HERE, NETS, steps
from operations import Clock

from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.system.devices import keep_freed_memory
from ddiff.system.environment import environment

STEP, OPERATIONS, BETWEEN = "the step, without the clock", "all operations", "between operations"
DATA = "making the batch"


def batches() -> Iterator[Any]:
    cfg = train_options("experiment=voxel_baseline", "budget.batch_size=8", "trainer=cpu")
    data = build(cfg.data)
    data.setup("fit")
    return iter(data.train_dataloader())


def measured(rounds: int, most: int) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of each kind, by number of threads, a value a round."""
    step, order = steps(*NETS["voxel net, patch 4, batch 8"], "native"), batches()
    found: dict[str, dict[int, list[float]]] = {}
    for turn in range(rounds + 1):
        for number in (1, most):
            torch.set_num_threads(number)
            step()  # starts or stops threads
            row = {DATA: timed(lambda: next(order)), STEP: timed(step)}
            with Clock() as clock:
                step()
            row |= clock.seconds
            row[OPERATIONS] = sum(clock.seconds.values())
            row[BETWEEN] = row[STEP] - row[OPERATIONS]
            if turn:
                for kind, seconds in row.items():
                    found.setdefault(kind, {1: [], most: []})[number].append(1e3 * seconds)
    torch.set_num_threads(most)
    return found


def timed(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def table(found: dict[str, dict[int, list[float]]], most: int) -> list[str]:
    lines = [
        f"| kind | ms, 1 thread | ms, {most} threads | times as fast | serial part, ms |",
        "|---|---|---|---|---|",
    ]
    totals = (OPERATIONS, BETWEEN, STEP, DATA)
    for kind in [*sorted(found.keys() - set(totals)), *totals]:
        one, all_ = (statistics.median(found[kind][n]) for n in (1, most))
        serial = (most * all_ - one) / (most - 1)
        lines.append(f"| {kind} | {one:.1f} | {all_:.1f} | {one / all_:.2f} | {serial:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    keep_freed_memory()
    most = torch.get_num_threads()
    if most == 1:
        parser.error("there is one thread; leave OMP_NUM_THREADS out")
    found = measured(args.rounds, most)
    where = environment(torch.device("cpu"), "bfloat16")
    report = [
        "# What of a training step scales with threads",
        "",
        "Written by `python experiments/step_profile/scaling.py` on "
        f"{where['device_name']}, torch {torch.__version__}:",
        f"a native step of the voxel net (patch 4, batch 8), medians of {args.rounds} rounds, in",
        "which both numbers of threads took turns.",
        "The serial part is what would be left if the rest were as many times as fast as there are",
        "threads; waiting at barriers is in it.",
        "",
        *table(found, most),
        "",
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scaling.json").write_text(json.dumps({"environment": where, **found}) + "\n")
    (args.out / "scaling.md").write_text("\n".join(report))
    print("\n".join(report))


if __name__ == "__main__":
    main()

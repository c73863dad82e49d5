"""Savings and costs of each lever of memory, at 64^3 and at 128^3, alone and together.

    python experiments/memory_levers/measure.py                 # half an hour on two quiet cores
    python experiments/memory_levers/measure.py --rounds 1 --sizes 64
    python experiments/memory_levers/measure.py --device cuda   # the allocator's peak, under a cap

Each row has a process of its own, and every round is one step of each. Writes results.json,
README.md and levers.png.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from report import written
from rows import CAPS, Row, rows

from ddiff.system.environment import environment

HERE = Path(__file__).parent


class Worker:
    """A row in a process of its own, that does a step when told."""

    def __init__(self, row: Row, device: str) -> None:
        command = [sys.executable, str(HERE / "worker.py"), device, *row.options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def ask(self, word: str) -> dict[str, Any]:
        """One line there, one line back."""
        assert self.process.stdin
        assert self.process.stdout
        print(word, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": "the process died"}

    def end(self) -> None:
        self.process.communicate()


def measured(size: int, limit: float, rounds: int, device: str) -> list[dict[str, Any]]:
    """Predict the memory of every row, and measure it if the prediction is below `limit` bytes."""
    every = rows(size)
    found = [{"size": size, "name": row.name, "options": list(row.options)} for row in every]
    workers = [Worker(row, device) for row in every]
    for one, worker in zip(found, workers, strict=True):
        one |= worker.ask("predict")
    run = [(o, w) for o, w in zip(found, workers, strict=True) if o["predicted"] < limit]
    for one, worker in run:
        one |= worker.ask(f"count {CAPS[size]}") | {"seconds": []}
        print(json.dumps(one), flush=True)
    run = [(o, w) for o, w in run if "failed" not in o]
    for _ in range(rounds):
        for one, worker in run:
            one["seconds"].append(worker.ask("step")["seconds"])
    for worker in workers:
        worker.end()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    found = [
        row
        for size in args.sizes
        for row in measured(size, args.limit_gb * 1e9, args.rounds, args.device)
    ]
    where = environment(torch.device(args.device), "as named")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(
        json.dumps({"environment": where, "rounds": args.rounds, "rows": found}, indent=1) + "\n"
    )
    written(args.out)


if __name__ == "__main__":
    main()

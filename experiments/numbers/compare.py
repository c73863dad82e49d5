"""Comparison of this tree's speed with an earlier one's.

    python experiments/numbers/compare.py bf566b8 --rounds 3    # half an hour, on a quiet machine

Runs every row of `ROWS` in turn in both trees, the other one first in each round, as commands of
their own, and adds what it measured to compare.json, as long as that is of the same revision, and
writes compare.md: the median of each tree, the ratio of each round (after / before: above 1 is
slower), their median and its 95% interval.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import scipy.stats

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
Runner = Callable[[Path, Path], float]  # a tree and an empty folder -> seconds
Times = dict[str, dict[str, list[float]]]  # of each row, before and after


def call(tree: Path, folder: Path, *words: str) -> str:
    """The output of a Python command in this folder, with the ddiff of this tree."""
    env = {**os.environ, "PYTHONPATH": str(tree / "src")}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} in {tree}: {done.stderr[-2000:]}")
    return done.stdout


def benchmark(mode: str, experiment: str, batch: int, repeats: int, *options: str) -> Runner:
    """Seconds of native bf16's work, the median of a benchmark of its own."""

    def run(tree: Path, folder: Path) -> float:
        call(tree, folder, "-m", "ddiff.benchmark", f"mode={mode}", f"experiment={experiment}",
             f"batch_sizes=[{batch}]", "backends=[native]", "precisions=[bf16]",
             f"repeats={repeats}", "trainer=cpu", "out=out", *options)  # fmt: skip
        found = json.loads((folder / "out/benchmark.json").read_text())
        (row,) = [r for r in found["contests"][0]["rows"] if r["backend"] == "native"]
        return row["seconds"]["median"]

    return run


def training(steps: int, *options: str) -> Runner:
    """Seconds of a step of a whole training, as its metrics.json has it."""

    def run(tree: Path, folder: Path) -> float:
        call(tree, folder, "-m", "ddiff.train", *options, f"budget.max_steps={steps}",
             f"budget.val_every={steps}", f"budget.sample_every={steps}", "run_dir=run",
             "sampling.num_samples=1", "solver.num_steps=1", "trainer=cpu")  # fmt: skip
        return json.loads((folder / "run/metrics.json").read_text())["resources"]["step_seconds"]

    return run


def spheres(tree: Path, folder: Path) -> float:
    code = """
import time, torch
from ddiff.data import Spheres
source, _ = Spheres(batch_size=8, seed=0, num=1000).sources()
found = []
for _ in range(6):
    started = time.perf_counter()
    for indices in torch.arange(1000).split(8):
        source.batch(indices)
    found.append(time.perf_counter() - started)
print(sorted(found[1:])[2])
"""
    return float(call(tree, folder, "-c", code))


ROWS: dict[str, Runner] = {
    "training step, voxel_adaptive": benchmark("train", "voxel_adaptive", 8, 9),
    "training step, CIFAR net": benchmark("train", "cifar10_ddpm", 16, 3),
    "sampling, voxel_adaptive": benchmark("sample", "voxel_adaptive", 8, 3, "num_steps=20"),
    "sampling, CIFAR net": benchmark("sample", "cifar10_ddpm", 8, 2, "num_steps=10"),
    "trainer, voxel_baseline": training(60, "experiment=voxel_baseline"),
    "trainer, digits_ddpm": training(150, "experiment=digits_ddpm"),
    "trainer, digits_cfg, online top-K": training(
        150, "experiment=digits_cfg", "timesteps=online_topk"
    ),
    "1,000 spheres": spheres,
}


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measure(before: Path, rows: dict[str, Runner], rounds: int) -> Times:
    found: Times = {n: {"before": [], "after": []} for n in rows}
    for number in range(rounds):
        trees = {"before": before, "after": ROOT}
        for name, run in rows.items():
            for which in sorted(trees, reverse=bool(number % 2)):
                with tempfile.TemporaryDirectory() as folder:
                    found[name][which].append(run(trees[which], Path(folder)))
            print(
                number + 1, name, {k: f"{v[-1]:.4g} s" for k, v in found[name].items()}, flush=True
            )
    return found


def table(revision: str, found: Times) -> str:
    lines = [
        f"`python experiments/numbers/compare.py {revision}`: seconds, medians of the rounds.",
        "",
        "| what | before | after | after / before, each round | median | 95% |",
        "|---|---|---|---|---|---|",
    ]
    for name, times in found.items():
        ratios = [b / a for a, b in zip(times["before"], times["after"], strict=True)]
        before, after = (statistics.median(times[which]) for which in ("before", "after"))
        each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        low, high = interval(ratios)
        lines.append(
            f"| {name} | {before:.4g} | {after:.4g} | {each} | {statistics.median(ratios):.3f} "
            f"| {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines) + "\n"


def interval(ratios: list[float]) -> tuple[float, float]:
    """Interval of the median for any distribution, from the ranks; all of fewer than six."""
    below = scipy.stats.binom(len(ratios), 0.5).cdf
    lowest = max((rank for rank in range(len(ratios)) if below(rank) <= 0.025), default=0)
    ordered = sorted(ratios)
    return ordered[lowest], ordered[-1 - lowest]


def joined(revision: str, found: Times) -> Times:
    """The rounds of compare.json, if it is of this revision, and then these."""
    path = HERE / "compare.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known.get("revision") != revision:
        return found
    for name, times in found.items():
        for which, seconds in times.items():
            known["rows"].setdefault(name, {}).setdefault(which, []).extend(seconds)
    return known["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="of git, to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="rows with these words in their name")
    given = parser.parse_args()
    rows = {name: run for name, run in ROWS.items() if not given.only or given.only in name}
    with checkout(given.revision) as before:
        found = measure(before, rows, given.rounds)
    rows = joined(given.revision, found)
    told = {"revision": given.revision, "rows": rows}
    (HERE / "compare.json").write_text(json.dumps(told, indent=1) + "\n")
    (HERE / "compare.md").write_text(table(given.revision, rows))
    print(table(given.revision, rows))


if __name__ == "__main__":
    main()

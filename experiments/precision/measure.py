"""Does training in bf16, or by the native backend, end where fp32 ends?

    python experiments/precision/measure.py                # an hour of one core

Trains both experiments over seeds into runs/precision (a finished run is used again) and writes
results.json, curves.png and README.md beside this file. Runs of one seed share weights, batches
and, but for native, which draws by Philox, noise: their differences are paired.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ddiff.reporting.events import read_scalars
from ddiff.reporting.looks import PALETTE

HERE, RUNS = Path(__file__).parent, Path("runs/precision")
EXPERIMENTS = {
    "voxels 64^3": ("voxel_baseline", 300, 30),  # experiment, steps, steps between validations
    "digits 8^2": ("digits_ddpm", 600, 60),
}
VARIANTS = {
    "fp32": ("precision=fp32", "backend=eager"),
    "bf16": ("precision=bf16", "backend=eager"),
    "bf16, native": ("precision=bf16", "backend=native"),
}
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's two-sided 95%, by degrees of freedom


def trained(experiment: str, variant: str, seed: int, steps: int, val_every: int) -> Path:
    run = RUNS / f"{experiment}_{variant.replace(', ', '_')}_{seed}"
    if not (run / "metrics.json").is_file():
        options = [f"experiment={experiment}", *VARIANTS[variant], f"seed={seed}"]
        options += [f"budget.max_steps={steps}", f"budget.val_every={val_every}", "data.seed=0"]
        resume = [f"ckpt_path={run}"] if (run / "checkpoints/last.ckpt").is_file() else options
        command = [sys.executable, "-m", "ddiff.train", *resume, f"run_dir={run}",
                   f"budget.sample_every={steps}"]  # fmt: skip
        print("$", *command, flush=True)
        subprocess.run(command, check=True)
    return run


def curve(run: Path) -> dict[str, list[float]]:
    found = read_scalars(run / "tensorboard", ["val/loss"])["val/loss"]
    return {"steps": found.steps.tolist(), "loss": found.values.tolist()}


def against(first: list[float], other: list[float]) -> dict[str, float]:
    """The relative difference over seeds, paired: mean and half its 95% interval."""
    ratios = [b / a - 1 for a, b in zip(first, other, strict=True)]
    half = T_95[len(ratios) - 1] * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return {"mean": statistics.mean(ratios), "half": half}


def draw(curves: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(curves), figsize=(5 * len(curves), 3.4), layout="constrained")
    for ax, (experiment, by_variant) in zip(axes, curves.items(), strict=True):
        for hue, (variant, runs) in zip(PALETTE, by_variant.items(), strict=False):
            for seed, run in enumerate(runs):
                label = variant if seed == 0 else None
                ax.plot(run["steps"], run["loss"], color=hue, lw=1.1, alpha=0.8, label=label)
        ax.set(title=experiment, xlabel="steps", ylabel="validation loss", yscale="log")
        ax.legend(frameon=False, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=110)


def report(results: dict[str, Any]) -> str:
    where = results["machine"]
    lines = [
        "# Training in bf16",
        "",
        "*Does training in bf16, or by the native backend, end where fp32 ends?* Written by",
        f"`python experiments/precision/measure.py` on {where['device_name']}, torch "
        f"{where['packages']['torch']}; {results['seeds']} seeds, validation of the averaged",
        "weights in the precision they were trained in, on the same volumes and pictures.",
        "",
        (HERE / "verdict.md").read_text() if (HERE / "verdict.md").is_file() else "",
        "![validation loss while training](curves.png)",
        "",
        "`spread`: standard deviation over seeds. `against fp32`: difference of runs of one seed,",
        "mean and 95% interval.",
        "",
        "| | steps | validation loss | spread | against fp32 |",
        "|---|---|---|---|---|",
    ]
    for experiment, by_variant in results["curves"].items():
        first = [run["loss"][-1] for run in by_variant["fp32"]]
        for variant, runs in by_variant.items():
            last = [run["loss"][-1] for run in runs]
            apart = against(first, last)
            beside = "" if variant == "fp32" else f"{apart['mean']:+.2%} ± {apart['half']:.2%}"
            spread = statistics.stdev(last) / statistics.mean(last)
            lines.append(
                f"| {experiment}, {variant} | {runs[0]['steps'][-1]} "
                f"| {statistics.mean(last):.5f} | {spread:.2%} | {beside} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS),
                        help="train these and write nothing")  # fmt: skip
    args = parser.parse_args()
    curves: dict[str, Any] = {name: {variant: [] for variant in args.only} for name in EXPERIMENTS}
    run = RUNS
    for seed in range(args.seeds):
        for name, (experiment, steps, val_every) in EXPERIMENTS.items():
            for variant in args.only:
                run = trained(experiment, variant, seed, steps, val_every)
                curves[name][variant].append(curve(run))
    if len(args.only) < len(VARIANTS):
        return
    machine = json.loads((run / "environment.json").read_text())
    results = {"machine": machine, "seeds": args.seeds, "curves": curves}
    (HERE / "results.json").write_text(json.dumps(results) + "\n")
    draw(curves, HERE / "curves.png")
    (HERE / "README.md").write_text(report(results))


if __name__ == "__main__":
    main()

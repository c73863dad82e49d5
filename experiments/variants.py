"""Do variants of a recipe end where the recipe ends? Validation losses while training, over seeds.

    python experiments/variants.py precision     # an hour of one core
    python experiments/variants.py optimizers    # an hour of one core

Trains every variant over seeds into runs/<study> (a finished run is used again) and writes
results.json, curves.png and README.md into experiments/<study>, with the verdict that a person
wrote there. Runs of one seed share weights, batches and, unless a backend draws by itself, noise:
their differences are paired.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddiff.pages.plotting import PALETTE
from ddiff.pages.report.events import read_scalars

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    experiment: str
    steps: int
    variants: dict[str, tuple[str, ...]]  # the first is what the others are compared with


@dataclass(frozen=True)
class Study:
    title: str
    question: str
    tasks: dict[str, Task]


PRECISIONS = {
    "fp32": ("precision=fp32", "backend=eager"),
    "bf16": ("precision=bf16", "backend=eager"),
    "bf16, native": ("precision=bf16", "backend=native"),
}
RATES = ("1e-3", "3e-3")
OPTIMIZERS = {
    f"{label}, {rate}": (f"optimizer={name}", f"optimizer.lr={rate}")
    for name, label in (("adamw", "AdamW"), ("muon", "Muon"))
    for rate in RATES
}
ON_SOLIDS = {name: (*options, "net.bounded=false") for name, options in OPTIMIZERS.items()} | {
    f"{name}, bounded": (*OPTIMIZERS[name], "net.bounded=true")
    for name in ("AdamW, 1e-3", "Muon, 3e-3")
}
OLD_SPHERES = ("data.centre=fixed", "optimizer=adamw", "optimizer.lr=1.0e-3",
               "module.ema_decay=0.995")  # fmt: skip
STUDIES = {
    "precision": Study(
        "Training in bf16",
        "Does training in bf16, or by the native backend, end where fp32 ends?",
        {
            "voxels 64^3": Task("voxel_baseline", 300, PRECISIONS),
            "digits 8^2": Task("digits_ddpm", 600, PRECISIONS),
        },
    ),
    "optimizers": Study(
        "Optimisers, and a bounded net",
        "What do Muon and a tanh at the net's end save, in steps?",
        {
            "spheres 64^3": Task("voxel_baseline", 300, ON_SOLIDS),
            "digits 8^2": Task("digits_ddpm", 600, OPTIMIZERS),
        },
    ),
}
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's two-sided 95%, by degrees of freedom


def trained(study: str, task: Task, variant: str, seed: int) -> Path:
    """The finished run; ten validations on the way."""
    run = Path("runs", study, f"{task.experiment}_{variant.replace(', ', '_')}_{seed}")
    if not (run / "metrics.json").is_file():
        options = [f"experiment={task.experiment}", *task.variants[variant], f"seed={seed}"]
        options += [f"budget.max_steps={task.steps}", f"budget.val_every={task.steps // 10}"]
        options += ["data.seed=0", f"budget.sample_every={task.steps}"]
        if task.experiment == "voxel_baseline":  # the recipe that these figures were measured with
            options = [*OLD_SPHERES, *options]
        resume = [f"ckpt_path={run}"] if (run / "checkpoints/last.ckpt").is_file() else options
        command = [sys.executable, "-m", "ddiff.train", *resume, f"run_dir={run}"]
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
    for ax, (task, by_variant) in zip(axes, curves.items(), strict=True):
        for hue, (variant, runs) in zip(PALETTE, by_variant.items(), strict=False):
            for seed, run in enumerate(runs):
                label = variant if seed == 0 else None
                ax.plot(run["steps"], run["loss"], color=hue, lw=1.1, alpha=0.8, label=label)
        ax.set(title=task, xlabel="steps", ylabel="validation loss", yscale="log")
        ax.legend(frameon=False, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=110)


def report(name: str, results: dict[str, Any]) -> str:
    study, where, verdict = STUDIES[name], results["machine"], HERE / name / "verdict.md"
    lines = [
        f"# {study.title}",
        "",
        f"*{study.question}* Written by",
        f"`python experiments/variants.py {name}` on {where['device_name']}, torch "
        f"{where['packages']['torch']}; {results['seeds']} seeds, validation of the averaged",
        "weights in the precision they were trained in, on the same data and noise.",
        "",
        verdict.read_text() if verdict.is_file() else "",
        "![validation loss while training](curves.png)",
        "",
        "`spread`: standard deviation over seeds. `against the first`: difference of runs of one",
        "seed, mean and 95% interval.",
        "",
        "| | steps | validation loss | spread | against the first |",
        "|---|---|---|---|---|",
    ]
    for task, by_variant in results["curves"].items():
        first = [run["loss"][-1] for run in next(iter(by_variant.values()))]
        for number, (variant, runs) in enumerate(by_variant.items()):
            last = [run["loss"][-1] for run in runs]
            apart = against(first, last)
            beside = f"{apart['mean']:+.2%} ± {apart['half']:.2%}" if number else ""
            spread = statistics.stdev(last) / statistics.mean(last)
            lines.append(
                f"| {task}, {variant} | {runs[0]['steps'][-1]} "
                f"| {statistics.mean(last):.5f} | {spread:.2%} | {beside} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    tasks = STUDIES[args.study].tasks
    curves: dict[str, Any] = {name: {v: [] for v in task.variants} for name, task in tasks.items()}
    run = Path()
    for seed in range(args.seeds):
        for name, task in tasks.items():
            for variant in task.variants:
                run = trained(args.study, task, variant, seed)
                curves[name][variant].append(curve(run))
    machine = json.loads((run / "environment.json").read_text())
    results = {"machine": machine, "seeds": args.seeds, "curves": curves}
    folder = HERE / args.study
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results) + "\n")
    draw(curves, folder / "curves.png")
    (folder / "README.md").write_text(report(args.study, results))


if __name__ == "__main__":
    main()

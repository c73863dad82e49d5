"""Trains the CPU recipes from nothing, samples, and judges the samples.

    python experiments/first_results/measure.py [study ...]     # about half an hour for all
    python experiments/first_results/measure.py voxel_adaptive --run RUN    # that of `make demo`

Writes results.json, a PNG a study and README.md beside this file. The judges are the tests' own:
intersection over union with the best-fitting sphere (valid: at least 0.9), and a small classifier
trained on the real digits.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support.digits import accuracy, trained_reader  # noqa: E402
from tests.support.spheres import best_sphere  # noqa: E402


def judge_spheres(samples: np.ndarray) -> dict[str, float]:
    fits = [best_sphere(volume) for volume in samples[:, 0]]
    scores, radii = np.array([f[0] for f in fits]), np.array([f[2] for f in fits])
    return {
        "valid spheres": float((scores >= 0.9).mean()),
        "median IoU": float(np.median(scores)),
        "empty": float((scores == 0).mean()),
        "radius mean": float(radii.mean()),
        "radius min": float(radii.min()),
        "radius max": float(radii.max()),
    }


def judge_digits(samples: np.ndarray) -> dict[str, float]:
    reader, on_real = trained_reader()
    asked = torch.arange(len(samples)) * 10 // len(samples)
    return {
        "read as asked": accuracy(reader, torch.from_numpy(samples), asked),
        "the reader on held-out real digits": on_real,
    }


STUDIES: dict[str, tuple[list[str], Callable[[np.ndarray], dict[str, float]]]] = {
    "voxel_adaptive": (["experiment=voxel_adaptive"], judge_spheres),
    "voxel_baseline": (["experiment=voxel_baseline"], judge_spheres),
    "voxel_random_centre": (
        ["experiment=voxel_baseline", "data.centre=random", "budget.max_steps=1600"],
        judge_spheres,
    ),
    "digits_cfg": (["experiment=digits_cfg"], judge_digits),
}


def call(verb: str, *options: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", f"ddiff.{verb}", *options], check=True)
    return time.perf_counter() - started


def study(name: str, run: Path | None) -> dict[str, object]:
    options, judge = STUDIES[name]
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            run = Path(folder, "run")
            call("train", *options, f"run_dir={run}")
        out = f"{folder}/samples"
        sampling = call("sample", f"from={run}", "num_samples=100", f"out={out}", "mesh=none")
        samples = np.load(f"{out}.npy")
        shutil.copy(f"{out}.png", HERE / f"{name}.png")
        metrics = json.loads((run / "metrics.json").read_text())
        where = json.loads((run / "environment.json").read_text())
    return {
        "command": "python -m ddiff.train " + " ".join(options),
        "steps": metrics["step"],
        "seconds from start to samples": metrics["seconds"],
        "training samples per second": metrics["samples_per_second"],
        "seconds for 100 samples": round(sampling, 1),
        "val/loss": metrics["val/loss"],
        **judge(samples),
        "machine": f"{where['device_name']}, {where['threads']} threads, {where['precision']}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", help=", ".join(STUDIES))
    parser.add_argument("--run", type=Path, help="a finished run of the one study named")
    args = parser.parse_args()
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.studies or STUDIES:
        results[name] = study(name, args.run)
        path.write_text(json.dumps(results, indent=2) + "\n")
    lines = [
        "# First results",
        "",
        "*What does each CPU recipe give in its default budget, from nothing, on two cores?*",
        "Written by `python experiments/first_results/measure.py`; one seed each, 100 samples.",
        "",
    ]
    for name, row in results.items():
        lines += [f"## {name}", "", f"`{row['command']}`", "", "| | |", "|---|---|"]
        lines += [f"| {k} | {v:.4g} |" for k, v in row.items() if isinstance(v, int | float)]
        lines += [f"| machine | {row['machine']} |", "", f"![{name}]({name}.png)", ""]
    (HERE / "README.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()

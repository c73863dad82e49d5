"""Trains MONAI's net and voxel_adaptive for so many minutes each, and judges their spheres."""

import json
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddiff.system.errors import DdiffError

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "peers"
SAMPLES = 16
FIGURES = ("validity", "sphere_iou", "one_piece", "volume_d")


def judged(
    results: dict[str, Any], minutes: float, python: Path, variables: Mapping[str, str]
) -> dict[str, Any]:
    """Both nets under the recipe's schedule, objective, data and solver, at their own batch sizes:
    as many steps as fit into the minutes by the measured step. Finished trainings are used again.
    """
    if "voxel_training" not in results.get("contests", {}):
        raise DdiffError("--quality needs the seconds of a step: measure voxel_training first")
    rows = results["contests"]["voxel_training"]["rows"]
    env = {**variables, "PYTHONPATH": str(HERE)}
    env.pop("DDIFF_CACHE", None)
    found = []
    for row in (fastest(rows, "peer"), fastest(rows, "ddiff, the same task")):
        steps = max(1, round(60 * minutes / statistics.median(row["seconds"])))
        run = RUNS / f"{row['name'].replace(' ', '_').replace(',', '')}_{steps}"
        figures = trained_and_judged(row, steps, run, python, env)
        found.append({"name": row["name"], "batch": row["batch"], "steps": steps, **figures})
    return {"minutes": minutes, "samples": SAMPLES, "rows": found}


def fastest(rows: list[dict[str, Any]], group: str) -> dict[str, Any]:
    """The row with most samples a second, of those that `ddiff.train` can run as they are."""
    able = [r for r in rows if r["group"] == group and r["seconds"] and not r["contiguous"]]
    return max(able, key=lambda r: r["batch"] / statistics.median(r["seconds"]))


def trained_and_judged(
    row: dict[str, Any], steps: int, run: Path, python: Path, env: Mapping[str, str]
) -> dict[str, Any]:
    def call(verb: str, *options: str) -> None:
        command = [str(python), "-m", f"ddiff.{verb}", "--config-dir", str(HERE / "conf"), *options]
        print("$", *command, flush=True)
        subprocess.run(command, check=True, env=dict(env))

    if not (run / "metrics.json").is_file():
        call(
            "train", *row["options"], f"run_dir={run}", f"budget.max_steps={steps}",
            f"budget.batch_size={row['batch']}", f"budget.val_every={steps}",
            f"budget.sample_every={steps}", "data.num_val=8",
            "sampling.num_samples=2", "sampling.batch_size=2",
        )  # fmt: skip
    out = run / "spheres.json"
    call(
        "evaluate", f"run={run}", f"num_samples={SAMPLES}", "batch_size=4",
        "data.num_val=1000", "metrics=[sphere_law,pieces]", f"out={out}",
        "overwrite=true",
    )  # fmt: skip
    figures = json.loads(out.read_text())["figures"]
    spent = json.loads((run / "metrics.json").read_text())
    return {
        "seconds": spent["seconds"],
        "val_loss": spent["val/loss"],
        "figures": {
            f["name"]: [f["value"], f["low"], f["high"]] for f in figures if f["name"] in FIGURES
        },
    }

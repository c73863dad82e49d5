"""Quality of the recipes, measured by `python -m ddiff.evaluate`.

    python experiments/quality.py digits_guidance       # or another study; --help names them

Trains what the study needs into runs/quality (a finished run is used again), measures, and writes
experiments/<study>/: results.json, study.png, a picture of samples, README.md with the verdict
that a person wrote beside it.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quality_report import write

RUNS = Path("runs/quality")
CLASSIFIERS = {
    "digits": ["experiment=classifier", "data=digits"],
    "fashion": ["experiment=classifier", "data=fashion_mnist", "budget.max_steps=2000"],
}


@dataclass(frozen=True)
class Row:
    """One line of a study: what it varies, the run, and options of `evaluate`."""

    label: dict[str, Any]
    run: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    question: str
    train: dict[str, list[str]]  # name of the run -> options
    rows: list[Row]
    metrics: str
    figures: tuple[str, ...]  # drawn, in this order
    x: str | None = None  # the label that is the horizontal axis
    classifier: str | None = None
    always: tuple[str, ...] = field(default=("num_samples=1000", "batch_size=250"))


DIGITS = {"digits_cfg": ["experiment=digits_cfg"]}
FASHION = {
    "fashion_cfg": ["experiment=fashion_cfg", "evaluation.every=500",
                    "evaluation.num_samples=500", "metrics=[fid,precision_recall,labels]"],
}  # fmt: skip
IMAGES = "[fid,kid,precision_recall,labels,memorisation]"
BY_FEATURES = ("accuracy", "fid", "precision", "recall")
SCALES = (0, 0.25, 0.5, 1, 2, 4, 8)
STEPS = (5, 10, 20, 50, 100)


def guided(run: str, scales: tuple[float, ...] = SCALES) -> list[Row]:
    return [Row({"guidance": w}, run, (f"guidance.scale={w}",)) for w in scales]


STUDIES = {
    "digits_guidance": Study(
        "What does guidance buy in accuracy and precision, and cost in recall? Real 8x8 digits.",
        DIGITS, guided("digits_cfg"), IMAGES, BY_FEATURES, "guidance", "digits",
    ),
    "digits_solvers": Study(
        "How many steps does each solver need? Real 8x8 digits, one net, same noise, guidance 1.",
        DIGITS,
        [
            Row({"solver": name, "steps": n}, "digits_cfg",
                (f"solver={name}", f"solver.num_steps={n}", "solver.spacing=trailing",
                 "guidance.scale=1"))
            for name in ("ddim", "dpmpp_2m", "dpmpp_2m_sde", "ddpm")
            for n in (*STEPS, *([1000] if name == "ddpm" else []))
        ],
        IMAGES, BY_FEATURES, "steps", "digits",
        always=("num_samples=1000", "batch_size=250"),
    ),
    "digits_objectives": Study(
        "Which schedule, which objective? Real 8x8 digits, 500 steps of training each.",
        {
            f"digits_{s}_{o}": ["experiment=digits_cfg", "budget.max_steps=500", f"schedule={s}",
                                f"objective={o}"]
            for s in ("linear", "cosine", "sigmoid") for o in ("eps", "x0", "v")
        },
        [
            Row({"schedule": s, "objective": o}, f"digits_{s}_{o}")
            for s in ("linear", "cosine", "sigmoid") for o in ("eps", "x0", "v")
        ],
        IMAGES, BY_FEATURES, None, "digits",
    ),
    "spheres": Study(
        "Are the 64^3 spheres spheres, and do their radii and places follow the law?",
        {
            "voxel_adaptive": ["experiment=voxel_adaptive"],
            **{
                f"{name} long": [f"experiment={name}", "budget.max_steps=3000"]
                for name in ("voxel_adaptive", "voxel_baseline")
            },
        },
        [Row({"run": name}, name)
         for name in ("voxel_adaptive", "voxel_adaptive long", "voxel_baseline long")],
        "[sphere_law,pieces,memorisation]", ("validity", "sphere_iou", "radius_d", "centre_d"),
        always=("num_samples=1000", "batch_size=16", "data.num_val=1000",
                "metrics.memorisation.most_train=20000"),
    ),
    "shapes_guidance": Study(
        "Six kinds of solids at 64^3 on two CPU cores: are they what was asked for?",
        {"shapes_cfg": ["experiment=shapes_cfg"]},
        guided("shapes_cfg", (0, 1, 3)), "[solid_fit,pieces,sets]",
        ("validity", "solid_iou", "one_piece", "coverage_iou"), "guidance",
        always=("num_samples=120", "batch_size=12"),
    ),
    "fashion_guidance": Study(
        "Fashion-MNIST on two CPU cores: guidance, and how quality grows with training.",
        FASHION, guided("fashion_cfg", (0, 0.25, 1, 2, 4)), IMAGES,
        BY_FEATURES, "guidance", "fashion",
        always=("num_samples=1000", "batch_size=250", "backend=native"),
    ),
}  # fmt: skip


def call(verb: str, *options: str) -> None:
    print(f"\n$ python -m ddiff.{verb} {' '.join(options)}", flush=True)
    subprocess.run([sys.executable, "-m", f"ddiff.{verb}", *options], check=True)


def trained(name: str, options: list[str]) -> Path:
    """The finished run of this name, trained or resumed where it is not there yet."""
    run = RUNS / name.replace(" ", "_")
    if (run / "metrics.json").is_file():
        return run
    if (run / "checkpoints/last.ckpt").is_file():
        call("train", f"ckpt_path={run}")
    else:
        call("train", *options, f"run_dir={run}")
    return run


def measure(name: str, study: Study) -> dict[str, Any]:
    extractor: list[str] = []
    read: float | None = None
    if study.classifier:
        reader = trained(f"classifier_{study.classifier}", CLASSIFIERS[study.classifier])
        extractor = [f"extractor.run={reader / 'checkpoints/best.ckpt'}"]
        read = json.loads((reader / "metrics.json").read_text())["val/accuracy"]
    runs = {run: trained(run, options) for run, options in study.train.items()}
    rows = []
    for i, row in enumerate(study.rows):
        out = runs[row.run] / "evaluations" / f"{name}_{i:03d}.json"
        if not newer(out, runs[row.run] / "metrics.json"):  # a study that was stopped goes on
            call("evaluate", f"run={runs[row.run]}", *study.always, *row.options, *extractor,
                 f"metrics={study.metrics}", f"out={out}", "overwrite=true")  # fmt: skip
        rows.append({"label": row.label, **json.loads(out.read_text())})
    first = next(iter(runs.values()))
    return {
        "question": study.question,
        "machine": json.loads((first / "environment.json").read_text()),
        "classifier": {"name": study.classifier, "accuracy": read} if study.classifier else None,
        "training": {
            run: {
                "options": study.train[run],
                **{
                    key: json.loads((path / "metrics.json").read_text())[key]
                    for key in ("step", "seconds", "val/loss")
                },
            }
            for run, path in runs.items()
        },
        "evaluated": [*study.always, f"metrics={study.metrics}"],
        "x": study.x,
        "drawn": study.figures,
        "rows": rows,
        "over_training": over_training(runs),
    }


def newer(out: Path, than: Path) -> bool:
    return out.is_file() and out.stat().st_mtime > than.stat().st_mtime


def over_training(runs: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """The evaluations made during training, by run."""
    return {
        name: [json.loads(path.read_text()) for path in found]
        for name, run in runs.items()
        if (found := sorted((run / "evaluations").glob("step_*.json")))
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", choices=STUDIES, metavar="study")
    for name in parser.parse_args().studies:
        out = Path(__file__).parent / name
        out.mkdir(exist_ok=True)
        results = measure(name, STUDIES[name])
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        write(name, results, out)
        for run in STUDIES[name].train:
            pictures = sorted((RUNS / run.replace(" ", "_") / "samples").glob("step_*.png"))
            if pictures and len(STUDIES[name].train) <= 4:
                shutil.copy(pictures[-1], out / f"{run.replace(' ', '_')}.png")


if __name__ == "__main__":
    main()

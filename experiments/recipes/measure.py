"""Measures recipes against the plain default and hand-made ones, at equal time, on six data sets.

    python -m experiments.recipes.measure balls field digits colours lamps fifty
    python -m experiments.recipes.measure --report

Each variant trains for `--seconds` of one core, for each of `--seeds`. Seconds are those of the
processor, so what else the machine does takes nothing from a variant. Steps of all variants of a
data set are timed in turns before they train, and each then trains for a fixed number. They run in
this process, step by step as Lightning's trainer makes them (`ddiff.training.turns.Turns`).
What is measured is added to results/<data set>.json, so the command goes on where it stopped.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from experiments.recipes.sets import SETS

from ddiff.build import build_guidance, build_plan
from ddiff.config.options import Train
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.recipes import budget
from ddiff.recipes.fingerprint import fingerprint
from ddiff.sampling.conditions import labels_for
from ddiff.sampling.generation import in_training
from ddiff.training.modules import DDPM
from ddiff.training.turns import Turns

HERE = Path(__file__).parent
MUON = ["optimizer=muon", "optimizer.lr=3e-3"]
SDE = ["solver=dpmpp_2m_sde"]
PICTURES = {
    "muon": MUON,
    "muon, logit-normal, sde": [*MUON, "timesteps=logit_normal", *SDE],
}
NARROW = ["net.channels=[16,32]"]
TRAILING = ["solver=dpmpp_2m", "solver.num_steps=40", "solver.spacing=trailing"]
VOLUMES = {
    "muon, narrow, 2m": [*MUON, *NARROW, *TRAILING],
    "muon, narrow, 2m, bounded": [*MUON, *NARROW, *TRAILING, "net.bounded=true"],
}
NUM = 300  # samples that are drawn
TIMED = 6  # rounds


def variants(name: str, seconds: float, known_recipe: Any) -> dict[str, list[str]]:
    """Return the options of every variant of a data set. A recipe that is known stays: a second
    look would find other times."""
    known = SETS[name]
    solid = known.data[:1] == ("data=voxels",)
    plain = [f"experiment={'volumes' if solid else 'pictures'}", *known.words(name)]
    if name == "digits":
        plain.append("module=conditional_ddpm")
    hand = {k: [*plain, *words] for k, words in (VOLUMES if solid else PICTURES).items()}
    return {"default": plain, "recipe": known_recipe or recipe(known.words(name), seconds), **hand}


def recipe(words: list[str], seconds: float) -> list[str]:
    """Return the options that ddiff.recipe chooses, by the clock of the processor."""
    data = build(train_options("experiment=pictures", "module=ddpm", *words).data)
    data.prepare_data()
    data.setup("fit")
    budget.CLOCK = time.process_time
    found = budget.within_budget(seconds, None, words, fingerprint(data), data)
    chosen = [choice.word for choice in found.choices]
    return ["~experiment", "name=recipe", *words, *chosen, f"budget.batch_size={found.batch}"]


def for_length(label: str, steps: int) -> list[str]:
    """Return the options that follow from the number of steps: the default keeps its own."""
    said = [f"budget.max_steps={steps}"]
    if label == "default":
        return said
    average = max(10, steps // 10)
    warmup = max(1, min(100, steps // 10))
    return [*said, f"module.ema_decay={1 - 1 / average:.6f}", f"lr_schedule.warmup_steps={warmup}"]


def costs_of(words: dict[str, list[str]]) -> dict[str, float]:
    """Return the processor's seconds of a step of each, timed in turns."""
    alive = {label: Turns(said) for label, said in words.items()}
    seconds: dict[str, list[float]] = {label: [] for label in alive}
    for _ in range(TIMED):
        for label, turns in alive.items():
            began = time.process_time()
            turns.step()
            seconds[label].append(time.process_time() - began)
    return {label: median(taken[1:]) for label, taken in seconds.items()}


def trained(options: Train, steps: int) -> Turns:
    """Train for so many steps."""
    turns = Turns(options)  # has done the first one
    for _ in range(steps - 1):
        turns.step()
    return turns


def drawn(options: Train, turns: Turns, num: int) -> np.ndarray:
    """Draw samples of the averaged net."""
    assert isinstance(turns.module, DDPM)
    plan = build_plan(options.solver, turns.module.schedule)
    plan = plan.guided_by(build_guidance(options.guidance))
    generation = in_training(turns.module, options, plan)
    labels = labels_for("auto", num, options.net.num_classes)
    with torch.no_grad():
        return torch.cat(list(generation.batches(num, 100, labels))).double().numpy()


def rows_of(file: Path, words: dict[str, list[str]]) -> dict[str, dict]:
    """Return what is known of the variants; the cost of a step is measured where it is not."""
    found = json.loads(file.read_text()) if file.is_file() else {}
    changed = [label for label, said in words.items() if said != found.get(label, {}).get("words")]
    if fresh := [label for label in changed if label != "default"] or changed:
        costs = costs_of({label: words[label] for label in dict.fromkeys(["default", *fresh])})
        ratio = found["default"]["step"] / costs["default"] if "default" in found else 1.0
        for label in fresh if "default" in found else costs:
            found[label] = {"step": costs[label] * ratio, "figures": {}, "words": words[label]}
    return found


def report() -> str:
    """Return a table of the results: mean figures over seeds."""
    lines = ["| data | figure | default | recipe | best hand-made | which | recipe / best |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, known in SETS.items():
        file = HERE / f"results/{name}.json"
        if not file.is_file():
            continue
        found = json.loads(file.read_text())
        means = {label: mean(row["figures"].values()) for label, row in found.items()
                 if row["figures"]}  # fmt: skip
        hand = {k: value for k, value in means.items() if k not in ("default", "recipe")}
        if not hand or "recipe" not in means:
            continue
        best = min(hand, key=lambda label: hand[label])
        about = (known.figure.__doc__ or "").split(".")[0].replace("\n    ", " ")
        lines.append(
            f"| `{name}` | {about} | {means['default']:.4f} | {means['recipe']:.4f} | "
            f"{hand[best]:.4f} | {best} | {means['recipe'] / hand[best]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--only", nargs="*", help="variants; all where this is left out")
    parser.add_argument("--work", type=Path, default=Path("outputs/recipes"))
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(report())
        return
    torch.set_num_threads(1)
    work, results = options.work.resolve(), HERE / "results"
    work.mkdir(parents=True, exist_ok=True)
    results.mkdir(exist_ok=True)
    for name in options.sets:
        SETS[name].write(work / name)
    os.chdir(work)
    for name in options.sets:
        file = results / f"{name}.json"
        known = json.loads(file.read_text()).get("recipe") if file.is_file() else None
        words = variants(name, options.seconds, known and known["words"])
        words = {k: v for k, v in words.items() if not options.only or k in options.only}
        found = rows_of(file, words)
        for seed, label in ((seed, label) for seed in options.seeds for label in words):
            row = found[label]
            if str(seed) in row["figures"]:
                continue
            row["steps"] = steps = max(20, round(options.seconds / row["step"]))
            said = [*words[label], *for_length(label, steps), f"seed={seed}"]
            made = train_options(*said)
            x = drawn(made, trained(made, steps), NUM)
            row["figures"][str(seed)] = SETS[name].figure(x)
            file.write_text(json.dumps(found, indent=1) + "\n")
            print(name, label, seed, steps, f"{row['figures'][str(seed)]:.4f}", flush=True)


if __name__ == "__main__":
    main()

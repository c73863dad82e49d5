"""One run of a study: trains up to a step, then measures. `python -m ddiff.study.trial FOLDER STEP`

The folder is the run's directory. `trial.json` in it says what to do; what was found at a step is
in `figures/<step>.json`, which appears when all of it is there. Started again after a kill, it
repeats nothing that is finished.
"""

import gc
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddiff.artifacts.trained import Trained
from ddiff.config.shell import run_verb
from ddiff.pages.report.events import read_scalars
from ddiff.sampling.given import HELD_OUT, given_of, held_out
from ddiff.study.figures import OF_TRAINING, key_of, metrics_for
from ddiff.study.folder import FAILURE, TASK
from ddiff.study.plan import drawn_by, fit_of, less
from ddiff.system.checkpoints import load_checkpoint
from ddiff.system.files import read_json, write_json
from ddiff.system.readers import read_array

LARGE = 2**26  # bytes of drawn samples that are not kept once they are measured


class Failed(Exception):
    """A verb has ended with another status than 0; the message is its line."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def call(verb: str, *words: str) -> None:
    """Run a verb in this process. Raises Failed."""
    print(f"$ python -m ddiff.{verb} {shlex.join(words)}", flush=True)
    status, reason = run_verb(verb, words)
    gc.collect()
    if status:
        raise Failed(reason, status)


def train(folder: Path, task: dict[str, Any], until: int) -> None:
    """Train up to a step: start, continue, or do nothing where that step is reached."""
    pause = f"budget.pause_at={until}"  # the last step too, so that it is validated
    last, flags = folder / "checkpoints/last.ckpt", task.get("flags", [])
    if last.is_file():
        if load_checkpoint(last)["global_step"] < until:
            call("train", *flags, f"ckpt_path={folder}", pause)
        return
    steps, every = task["steps"], task["val_every"]
    words = [f"budget.max_steps={steps}", f"budget.val_every={every}"]
    words += [f"budget.sample_every={steps}", pause, f"run_dir={folder}"]
    call("train", *flags, *task["train"], *words)


def of_training(folder: Path, names: Sequence[str], step: int) -> dict[str, float]:
    """Figures of the training at its last step, from metrics.json.

    Where a kill came between the last checkpoint and that file, from TensorBoard.
    """
    metrics = read_json(folder / "metrics.json")
    if metrics.get("step") == step:
        return {name: metrics[name] for name in names if name in metrics}
    found = read_scalars(folder / "tensorboard", names)
    return {name: float(curve.values[-1]) for name, curve in found.items() if len(curve.values)}


def figures(folder: Path, task: dict[str, Any], step: int) -> dict[str, dict[str, Any]]:
    """{variant: {figure: value}, ...} at a step; what cannot be measured is left out, with why."""
    trained = of_training(folder, [n for n in task["measure"] if n in OF_TRAINING], step)
    names, flags = metrics_for(task["measure"]), task.get("flags", [])
    found: dict[str, dict[str, Any]] = {}
    for variant, drawing in task["draw"].items():
        found[variant] = {"figures": dict(trained), "omitted": {}}
        if not names:
            continue
        name = f"{task['slugs'][variant]}_{step:06d}.json"
        out = folder / "evaluations" / name
        if fit := fit_of(drawing):
            path = folder / "plans" / name
            also = [w for w in task["evaluate"] if w.startswith("accelerator=")]
            call("plan", *flags, f"run={folder}", *fit, *also, f"out={path}", "overwrite=true")
            drawing = [*less(drawing, "solver", "plan"), "solver=learned", f"solver.path={path}"]
        call(
            "evaluate", *flags, f"run={folder}", *drawing, f"metrics=[{','.join(names)}]",
            "+metrics.auto=true", f"num_samples={task['num_samples']}", *task["evaluate"],
            f"out={out}", "overwrite=true",
        )  # fmt: skip
        made = json.loads(out.read_text())
        drawn = Path(made["source"])
        kept = folder / "figures" / name.replace(".json", ".npy")
        keep_some(read_array(drawn, "the samples"), kept)
        if f"from_image={HELD_OUT}" in drawing:
            keep_truths(folder, drawing, kept)
        if drawn.stat().st_size > LARGE:
            drawn.unlink()
        values = {one["name"]: one["value"] for one in made["figures"]}
        wanted = [name for name in task["measure"] if name not in OF_TRAINING]
        found[variant]["figures"] |= {n: values[key_of(n)] for n in wanted if key_of(n) in values}
        found[variant]["omitted"] = made["omitted"]
        found[variant]["sampling"] = made["sampling"]
    for variant, one in found.items():
        value = one["figures"].get(task["decide"])
        if value is None:
            why = "; ".join(dict.fromkeys(one["omitted"].values())) or "this training has none"
            raise Failed(f"{task['decide']} of {variant} was not measured: {why}", 1)
        if not math.isfinite(value):
            raise Failed(f"{task['decide']} of {variant} is {value}", 1)
    return found


def keep_some(samples: np.ndarray, path: Path) -> None:
    """Keep a few samples of a variant, spread over all, for the study's picture."""
    some = np.linspace(0, len(samples) - 1, num=4 if samples.ndim == 5 else 16).round().astype(int)
    path.parent.mkdir(exist_ok=True)
    np.save(path, samples[np.unique(some)])


def keep_truths(folder: Path, drawing: Sequence[str], beside: Path) -> None:
    """Keep the held-out samples that samples were made from, and what was known of them."""
    trained, number = Trained.load(str(folder)), read_json(folder / TASK)["num_samples"]
    rows, truths = torch.arange(number), held_out(trained)
    options = drawn_by("drawing", drawing)
    belong = truths[rows // options.versions % len(truths)]
    keep_some(belong.numpy(), beside.with_suffix(".truth.npy"))
    given = given_of(options, trained)
    known = given and given.known(rows)
    if known is not None:
        keep_some(known.guess.numpy(), beside.with_suffix(".known.npy"))


def run(folder: Path, until: int) -> None:
    task = read_json(folder / TASK)
    began = time.perf_counter()
    train(folder, task, until)
    step = load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"]
    trained = time.perf_counter() - began
    found = figures(folder, task, step)
    spent = {"training": trained, "measuring": time.perf_counter() - began - trained}
    seconds = read_json(folder / "metrics.json").get("seconds")
    result = {"step": step, "variants": found, "spent": spent, "train_seconds": seconds}
    write_json(folder / "figures" / f"{until:06d}.json", result)


def main() -> None:
    """Exit status 0: the figures are there. 1: `failure.json` says why not. Else: ended by a
    signal, and can be started again."""
    folder, until = Path(sys.argv[1]), int(sys.argv[2])
    try:
        run(folder, until)
    except Failed as failed:
        if failed.status > 128:  # a signal
            sys.exit(failed.status)
        write_json(folder / FAILURE, {"why": str(failed), "until": until})
        sys.exit(1)


if __name__ == "__main__":
    main()

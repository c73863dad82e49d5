"""Gain of each way of choosing timesteps, at equal steps and at equal wall-clock.

    python experiments/timesteps.py voxel            # writes experiments/timesteps_voxel/
    python experiments/timesteps.py digits           # writes experiments/timesteps_digits/
    python experiments/timesteps.py digits_eps       # writes experiments/timesteps_digits_eps/
    python experiments/timesteps.py overhead         # writes experiments/timesteps_overhead/

Every training is a run of `python -m ddiff.train`, two side by side on a thread each; runs that
are finished are kept in --runs, so that the command can be stopped and repeated. The cost of a
method is measured apart: all samplers take turns, step by step, in one training (medians), so that
no noise of the machine falls on one of them. A method that costs c steps is trained for c steps
less where wall-clock is equal. Judged on averaged weights, on noise that is the same for all.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig
from scipy.stats import kstest

from ddiff.artifacts.trained import Trained, load_net
from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.diffusion import Schedule
from ddiff.metrics.spheres import best_sphere
from ddiff.system.checkpoints import find_checkpoint
from ddiff.system.environment import environment
from ddiff.system.random import generator
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.loggers import TensorBoard

HERE = Path(__file__).parent
METHODS = {
    "uniform": ["timesteps=uniform"],
    "stratified": ["timesteps=stratified"],
    "loss_second_moment": ["timesteps=loss_second_moment"],
    "stratified_importance": ["timesteps=stratified_importance"],
    "online_topk": ["timesteps=online_topk"],
    "online_topk corrected": ["timesteps=online_topk", "timesteps.correct=true"],
    "online_topk exact": ["timesteps=online_topk_exact"],
    "precomputed_topk": ["timesteps=precomputed_topk"],
    "speed": ["timesteps=speed"],
    "speed_released": ["timesteps=speed_released"],
}
MEASURED = [name for name in METHODS if name != "precomputed_topk"]  # its law is a table: speed's
PAY = ("online_topk exact", "precomputed_topk")  # cost more than a step of uniform


@dataclass(frozen=True)
class Study:
    options: list[str]
    steps: int
    judge: Callable[[np.ndarray, Path], dict[str, float]]  # samples, their run
    about: str
    repeats: int  # noise draws a validation sample


def judge_spheres(samples: np.ndarray, run: Path) -> dict[str, float]:
    """Valid: intersection over union of 0.9 and more with the best-fitting sphere. The radius law
    is uniform between an eighth and a quarter of the size."""
    size = samples.shape[-1]
    fits = [best_sphere(volume > 0) for volume in samples[:, 0]]
    valid = np.array([fit.iou >= 0.9 for fit in fits])
    radii = np.array([fit.radius for fit in fits])[valid] / size
    law = kstest(radii, "uniform", (1 / 8, 1 / 8)) if len(radii) > 4 else None
    return {
        "valid": float(valid.mean()),
        "KS distance of radii": float(law.statistic) if law else 1.0,
    }


def judge_digits(samples: np.ndarray, run: Path) -> dict[str, float]:
    """Share of digits that the classifier trained beside the run reads as asked."""
    reader, _, _ = load_net(find_checkpoint(str(run.parent / "classifier")))
    asked = torch.arange(len(samples)) * 10 // len(samples)
    read = reader(torch.from_numpy(samples)).argmax(1)
    return {"read as asked": (read == asked).float().mean().item()}


# the recipe that these figures were measured with; today's spheres lie at random places
OLD_SPHERES = ("experiment=voxel_baseline", "data.centre=fixed", "optimizer=adamw",
               "optimizer.lr=1.0e-3", "module.ema_decay=0.995")  # fmt: skip
DIGITS = ["experiment=digits_cfg", "budget.batch_size=64", "guidance=none"]
STUDIES = {
    "voxel": Study(
        [
            *OLD_SPHERES,
            "data.size=32",
            "data.num_val=200",
            "data.num=1000",
            "schedule.snr_factor=0.015625",
            "solver=dpmpp_2m_sde",
            "solver.spacing=trailing",
            "solver.num_steps=40",
        ],
        250,
        judge_spheres,
        "32^3 spheres, `voxel_baseline`'s net and recipe (objective x0, batch of 8)",
        1,
    ),
    "digits": Study(DIGITS, 300, judge_digits, "real 8x8 digits by class (objective v)", 4),
    "digits_eps": Study(
        [*DIGITS, "objective=eps"], 200, judge_digits, "real 8x8 digits by class (objective eps)", 4
    ),
}


class TakeTurns(Callback):
    """Gives every batch of one training to the next sampler, and times it from start to end."""

    def __init__(self, samplers: dict[str, torch.nn.Module], rounds: int) -> None:
        self.samplers, self.rounds = samplers, rounds
        self.times: dict[str, list[float]] = {name: [] for name in samplers}
        self.names = list(samplers)

    def on_train_batch_start(self, trainer: Trainer, pl_module, batch, batch_idx: int) -> None:
        pl_module.timesteps = self.samplers[self.names[batch_idx % len(self.names)]]
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module, outputs, batch, batch_idx: int
    ) -> None:
        seconds = time.perf_counter() - self.started
        self.times[self.names[batch_idx % len(self.names)]].append(seconds)
        trainer.should_stop = batch_idx + 1 >= self.rounds * len(self.names)


def costs(options: list[str], names: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step with every sampler, in turns; exact ones measure in each of their steps."""
    cfg = train_options(*options, "budget.max_steps=100000", "budget.val_every=100000")
    data = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    precision = build_precision(cfg.precision, torch.device("cpu"))
    module = build_module(cfg, precision)
    samplers = {}
    for name in names:
        node = train_options(*options, *METHODS[name]).timesteps
        if "exact" in name:
            node.refresh_every = 1
        samplers[name] = build(node, schedule=module.schedule)
    turns = TakeTurns(samplers, rounds + 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        trainer = build_trainer(cfg, path, TensorBoard(path), [turns], precision)
        trainer.fit(module, data)
    return {name: times[2:] for name, times in turns.times.items()}


def alone(*words: str) -> None:
    """A command on one thread, so that several can run side by side."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def overhead(out: Path) -> None:
    """Measure the time that samplers without scoring add to a step, as users run them."""
    names = [name for name in MEASURED if "exact" not in name]
    times = {
        "`voxel_baseline`, 64^3, batch of 8": costs(list(OLD_SPHERES), names, 20),
        "`digits_cfg`, 8x8, batch of 128": costs(["experiment=digits_cfg"], names, 60),
    }
    where = environment(torch.device("cpu"), "bfloat16")
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"machine": where, "seconds": times}) + "\n")
    from timesteps_report import write_overhead

    write_overhead(times, where, out)


def train(options: list[str], folder: Path) -> Path:
    """A finished run in `folder`; one that is there already is not repeated."""
    if not (folder / "metrics.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # one that was interrupted
        alone("-m", "ddiff.train", *options, f"run_dir={folder}")
        loss = json.loads((folder / "metrics.json").read_text())["val/loss"]
        print(f"{folder.name}: val/loss {loss:.5f}", flush=True)
    return folder


def importance(run: Path, file: Path) -> Path:
    """Scores from the averaged net of a short uniform run."""
    if not file.exists():
        alone("-m", "ddiff.importance", f"run={run}", f"out={file}", "relative_error=0.1")
    return file


@torch.no_grad()
def validation(run: Path, repeats: int) -> list[float]:
    """The plain loss of the averaged net by tenth of t, 10 timesteps in each of `repeats` noises a
    sample; the same for every run."""
    trained = Trained.load(str(run))
    data = build(trained.options.data)
    data.setup("fit")
    precision = build_precision(trained.options.precision, torch.device("cpu"))
    schedule: Schedule = trained.schedule
    tenths: list[list[float]] = [[] for _ in range(10)]
    for number, (x_0, y) in enumerate(data.val_dataloader()):
        for repeat in range(repeats):
            g = generator("cpu", "judge", number, repeat)
            for tenth in range(10):
                low, high = tenth * schedule.T // 10, (tenth + 1) * schedule.T // 10
                t = torch.randint(low + 1, high + 1, (len(x_0),), generator=g)
                eps = torch.randn(x_0.shape, generator=g)
                x_t = schedule.add_noise(x_0, t, eps)
                with precision.autocast(x_0.device):
                    pred = trained.net(x_t, t - 1, y if trained.options.net.num_classes else None)
                error = pred.float() - trained.objective.target(schedule, x_0, eps, t)
                tenths[tenth] += error.square().flatten(1).mean(1).tolist()
    return [statistics.fmean(losses) for losses in tenths]


def judge(study: Study, run: Path) -> None:
    """Writes judged.json into the run, where it is not."""
    file = run / "judged.json"
    if not file.exists():
        step = json.loads((run / "metrics.json").read_text())["step"]
        samples = np.load(run / "samples" / f"step_{step:06d}.npy")
        tenths = validation(run, study.repeats)
        metrics = json.loads((run / "metrics.json").read_text())
        found = {
            "steps": step,
            "validation loss": statistics.fmean(tenths),
            "by tenth of t": tenths,
            **study.judge(samples, run),
            "peak memory, MB": metrics["peak_memory_mb"],
        }
        file.write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=[*STUDIES, "overhead"])
    parser.add_argument("--steps", type=int, help="of uniform")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=25, help="of the measurement of costs")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--runs", type=Path, help="where the trainings go")
    parser.add_argument("--out", type=Path, help="where the report goes")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--judge", type=Path, help="only judge this run")
    args = parser.parse_args()
    if args.study == "overhead":
        overhead(args.out or HERE / "timesteps_overhead")
        return
    study = STUDIES[args.study]
    if args.judge:
        judge(study, args.judge)
        return
    steps = args.steps or study.steps
    runs = args.runs or HERE.parent / "runs" / f"timesteps_{args.study}"
    out = args.out or HERE / f"timesteps_{args.study}"
    for folder in (runs, out):
        folder.mkdir(parents=True, exist_ok=True)

    if study.judge is judge_digits:
        train(["experiment=classifier"], runs / "classifier")
    cost_file = runs / "costs.json"
    if not cost_file.exists():
        cost_file.write_text(json.dumps(costs(study.options, MEASURED, args.rounds)))
    step_times = json.loads(cost_file.read_text())
    step = {name: statistics.median(times) for name, times in step_times.items()}
    refresh_every = train_options(
        *study.options, *METHODS["online_topk exact"]
    ).timesteps.refresh_every
    exact = 1 + (step["online_topk exact"] / step["uniform"] - 1) / refresh_every

    common = [
        *study.options,
        f"budget.val_every={max(1, steps // 4)}",
        "budget.sample_every=1000000",
        "sampling.num_samples=100",
        "sampling.batch_size=50",
    ]
    common.append(f"lr_schedule.warmup_steps={steps // 10}")
    short = steps // 5
    scored = train([*common, f"budget.max_steps={short}", "seed=100"], runs / "before")
    scores = importance(scored, runs / "scores.json")
    scoring = json.loads(scores.read_text())
    exact_bins = train_options(*study.options, *METHODS["online_topk exact"]).timesteps.bins
    per_timestep = (step["online_topk exact"] - step["uniform"]) / exact_bins
    seconds = scoring["batches"] * scoring["bins"] * per_timestep
    spent = {
        "online_topk exact": steps - round(steps / exact),
        "precomputed_topk": short + round(seconds / step["uniform"]),
    }

    jobs: dict[tuple[str, int, str], tuple[list[str], Path]] = {}
    for seed in range(args.seeds):
        for name in args.methods:
            options = [*common, *METHODS[name], f"seed={seed}"]
            if name == "precomputed_topk":
                options.append(f"timesteps.path={scores}")
            folder = runs / f"{name.replace(' ', '_')}_{seed}"
            jobs[name, seed, "steps"] = ([*options, f"budget.max_steps={steps}"], folder)
            fewer = steps - spent.get(name, 0)
            if name in PAY and fewer > steps // 10:
                paid = folder.with_name(f"{folder.name}_paid")
                jobs[name, seed, "time"] = ([*options, f"budget.max_steps={fewer}"], paid)

    def train_and_judge(job: tuple[list[str], Path]) -> dict:
        folder = train(*job)
        if not (folder / "judged.json").exists():
            alone(__file__, args.study, "--judge", str(folder))
        return json.loads((folder / "judged.json").read_text())

    with ThreadPoolExecutor(args.workers) as pool:
        found = list(pool.map(train_and_judge, jobs.values()))
    rows = [
        {"method": name, "seed": seed, "equal": equal, **row}
        for (name, seed, equal), row in zip(jobs, found, strict=True)
    ]
    results = {
        "about": study.about,
        "steps": steps,
        "seeds": args.seeds,
        "spent": {name: steps_ for name, steps_ in spent.items() if name in args.methods},
        "step times": {name: statistics.quantiles(t, n=4) for name, t in step_times.items()},
        "rows": rows,
        "curves": {name: curve(runs, name, args.seeds) for name in args.methods},
        "laws": {name: law(runs / f"{name.replace(' ', '_')}_0") for name in args.methods},
        "machine": environment(torch.device("cpu"), "bfloat16"),
    }
    (out / "results.json").write_text(json.dumps(results) + "\n")
    from timesteps_report import write

    write(args.study, results, out)


def curve(runs: Path, name: str, seeds: int) -> list[list[float]]:
    """[step, median over seeds of val/loss] through training."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[int, list[float]] = {}
    for seed in range(seeds):
        board = runs / f"{name.replace(' ', '_')}_{seed}" / "tensorboard"
        events = EventAccumulator(str(board)).Reload()
        for event in events.Scalars("val/loss"):
            found.setdefault(event.step, []).append(event.value)
    return [[step, statistics.median(values)] for step, values in sorted(found.items())]


def law(run: Path) -> list[float]:
    """p(t) at the end of a run, summed over 50 groups of timesteps."""
    from ddiff.system.checkpoints import find_checkpoint, load_checkpoint

    checkpoint = load_checkpoint(find_checkpoint(str(run)))
    cfg = DictConfig(checkpoint["ddiff"]["config"])
    sampler = build(cfg.timesteps, schedule=build(cfg.schedule))
    prefix = "timesteps."
    state = {
        key[len(prefix) :]: value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    sampler.load_state_dict(state)
    return [float(part.sum()) for part in sampler.law().tensor_split(50)]


if __name__ == "__main__":
    main()

"""Measures exact scores: what the gradient norms of K candidate timesteps cost, and what they take.

    python experiments/exact_scores/measure.py            # 4 minutes on two cores

Everything is interleaved: each round times every way once; medians and quartiles over rounds.
Writes results.json and README.md beside this file.
"""

import argparse
import ctypes
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ddiff.build import build_precision
from ddiff.config.options import Train
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.diffusion.loss import errors, noised
from ddiff.nets.gradients import VALUES_AT_ONCE, Loss, Predict, batched, last_layer, looped
from ddiff.system.environment import environment
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules import DDPM

HERE = Path(__file__).parent
# of voxel_baseline when these figures were measured; today's recipe has Muon and random places
OLD = ("data.centre=fixed", "optimizer=adamw", "optimizer.lr=1.0e-3")
CASES = {  # title: (candidates, part of the rounds, overrides)
    "`digits_ddpm`, batch 128": (10, 1.0, ("experiment=digits_ddpm",)),
    "`digits_ddpm`, batch 128, many candidates": (50, 0.3, ("experiment=digits_ddpm",)),
    "`voxel_baseline`, batch 8": (10, 0.6, ("experiment=voxel_baseline", *OLD)),
    "`simple2d` on digits, batch 16": (
        10,
        5.0,
        ("experiment=digits_ddpm", "net=simple2d", "budget.batch_size=16"),
    ),
    "`plain3d` at 16^3, batch 2": (
        10,
        5.0,
        ("experiment=voxel_baseline", *OLD, "net=plain3d", "data.size=16", "budget.batch_size=2"),
    ),
}
Run = Callable[[], Tensor]


def ways(cfg: Train, candidates: int, device: torch.device) -> dict[str, Run]:
    """A plain training step, and every way to score `candidates` timesteps on the same batch."""
    data = build(cfg.data)
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    module = build_module(cfg, build_precision(cfg.precision, device)).to(device)
    assert isinstance(module, DDPM)
    net, schedule, objective = module.net, module.schedule, module.objective
    x_0 = next(iter(data.train_dataloader()))[0].to(device)
    eps = torch.randn_like(x_0)
    optimizer = build(cfg.optimizer)(net.parameters())
    t = torch.linspace(1, schedule.T, candidates, device=device).long()

    def losses(predict: Predict, times: Tensor) -> Tensor:
        x_t, target = noised(x_0, times, eps, schedule, objective)
        each, _ = errors(module.predictor(predict), x_t, target, times, None)
        return each * objective.weights_at(schedule, times)

    def step() -> Tensor:
        times = torch.randint(1, schedule.T + 1, (len(x_0),), device=device)
        loss = losses(net, times).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.trainer.gradient_clip_val)
        optimizer.step()
        return loss.detach()

    def loss(predict: Predict, at: Tensor) -> Tensor:
        return losses(predict, at.expand(len(x_0))).mean()

    functions = {"looped": looped, "batched": batched}
    if candidates <= 10:
        if x_0.numel() * candidates > VALUES_AT_ONCE:
            functions["batched, all at once"] = partial(batched, chunk=candidates)
        functions["vmap of grad"] = vmap_of_grad
    functions["last layer only"] = last_layer
    return {"a training step": step} | {
        name: partial(function, net, loss, t) for name, function in functions.items()
    }


def vmap_of_grad(net: nn.Module, loss: Loss, t: Tensor) -> Tensor:
    """The straightforward way: torch.func alone, all candidates at once."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def norm(at: Tensor) -> Tensor:
        def of(values: dict[str, Tensor]) -> Tensor:
            return loss(lambda *inputs: functional_call(net, values, inputs), at)

        return torch.stack([g.norm() for g in grad(of)(parameters).values()]).norm()

    return vmap(norm)(t)


def timed(run: Run, device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def with_memory(run: Run, device: torch.device) -> tuple[Tensor, float | None]:
    """Return the result of a run, and the MB it takes on top of what was there (None: unknown)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return run(), (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if sys.platform != "linux":
        return run(), None
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = status("VmRSS")
    return run(), (status("VmHWM") - before) / 2**10


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(title: str, rounds: int, device: torch.device) -> dict:
    """Seconds of every way, interleaved; peak memory; largest difference from `looped`."""
    candidates, part, overrides = CASES[title]
    runs = ways(train_options(*overrides), candidates, device)
    for _ in range(5):  # the last layers of a new net are zero, and so are most gradients
        runs["a training step"]()
    first = {name: with_memory(run, device) for name, run in runs.items()}
    reference = first["looped"][0]
    differences = {
        name: ((scores - reference).abs() / reference).max().item()
        for name, (scores, _) in first.items()
        if name.startswith(("batched", "vmap"))
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(max(3, round(part * rounds))):
        for name, run in runs.items():
            times[name].append(timed(run, device))
    memory = {name: megabytes for name, (_, megabytes) in first.items()}
    return {"K": candidates, "seconds": times, "memory": memory, "differences": differences}


def table(title: str, result: dict) -> list[str]:
    step = statistics.median(result["seconds"]["a training step"])
    lines = [
        f"| {title}, K = {result['K']} | median ms | quartiles | training steps | peak MB | off |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in result["seconds"].items():
        low, middle, high = (1e3 * q for q in statistics.quantiles(values, n=4))
        memory, off = result["memory"][name], result["differences"].get(name)
        lines.append(
            f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {middle / step / 1e3:.2f} "
            f"| {'?' if memory is None else round(memory)} "
            f"| {'' if off is None else f'{off:.0e}'} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "There is a performance drop")  # vmap's, over attention
    results = {title: measure(title, args.rounds, args.device) for title in CASES}
    where = environment(args.device, "bfloat16")
    report = [
        "# Exact scores",
        "",
        "*What do the exact gradient norms of K candidate timesteps cost?* Every sample of the",
        "batch is at the candidate, the norm is over all parameters. Written by",
        "`python experiments/exact_scores/measure.py` on",
        f"{where['device_name']}, {where['threads']} threads, torch {torch.__version__}.",
        "Interleaved, medians; a training step is forward, backward, clipping and AdamW; memory is",
        "what a run takes on top of weights and data; off is the largest relative difference from",
        "`looped`, under bf16 where the device is fast at it.",
        "",
    ]
    for title, result in results.items():
        report += table(title, result)
    (args.out / "README.md").write_text("\n".join([*report, *READING]))
    (args.out / "results.json").write_text(json.dumps({"environment": where, **results}) + "\n")
    print("\n".join(report))


READING = [
    "`looped` is a backward pass a candidate. `batched` (`ddiff.nets.gradients`) sends as",
    "many candidates through the net at once as share 2^16 values of x_t, and keeps their",
    "gradients apart; a candidate of more than half of that is scored alone, as `looped` does.",
    "Convolutions cost the same either way, so on a CPU batching wins only what small operations",
    "lose to being small. `vmap of grad` makes grouped convolutions of weight gradients.",
    "Nothing here is cheap: an exact score costs about a training step, the last layer's a",
    "fifth to a half of that. Refresh scores rarely, or use the proxy.",
    "",
]


if __name__ == "__main__":
    main()

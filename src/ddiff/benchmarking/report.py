"""Runs contests one after another and leaves the table, benchmark.json and benchmark.png."""

import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ddiff.backends import device_of
from ddiff.benchmarking.contest import Contest, Row, rows_of
from ddiff.benchmarking.memory import WHAT
from ddiff.benchmarking.plot import picture
from ddiff.benchmarking.racing import forget, race, stopwatch
from ddiff.benchmarking.subject import Subject
from ddiff.benchmarking.table import print_table
from ddiff.benchmarking.training import ALIKE
from ddiff.pages.view import save_png
from ddiff.system.console import console, progress
from ddiff.system.environment import environment
from ddiff.system.files import check_outputs, write_json
from ddiff.system.precision import Precision

OPTIONS = ("run", "weights", "mode", "backends", "precisions", "solvers", "num_steps",
           "batch_sizes", "repeats", "seed", "accelerator")  # fmt: skip
PROTOCOL = (
    "every row: a cold start and a warm-up, then rounds in which each row runs once; medians and "
    "quartiles over rounds; speed-up: time of the first row over that of the row, in each round",
    "cold start: seconds from nothing to the end of the first run, less a steady run; caches of "
    "compilers on the disk as they were found",
)
OF = {
    "sample": "PSNR and max error: samples against those of eager fp32 from the same noise; the "
    "first row draws its noise by torch, and so is compared in time alone",
    "train": f"loss: of step {ALIKE} from the same weights, the same batch, timesteps and noise; "
    "off by: relative difference from the first row's",
}
KEY = {  # the same beside the picture
    "sample": "dB: PSNR against eager fp32",
    "train": f"off by: difference of the loss after {ALIKE} steps",
}


def compare(subject: Subject, cfg: DictConfig, contests: Sequence[Contest]) -> None:
    """Every contest leaves its table when it is done, and is then in the file too."""
    folder = folder_for(subject, cfg.out)
    check_outputs([folder / "benchmark.json", folder / "benchmark.png"], cfg.overwrite)
    about = _about(subject, cfg)
    write_json(folder / "benchmark.json", about)
    machine = _machine(about["environment"])
    console.print(f"net         {subject} ({subject.trained.digest})\nmachine     {machine}")
    if subject.fresh:
        console.print("note        an untrained net: as fast as a trained one, fidelity may differ")
    done: list[tuple[Contest, list[Row]]] = []
    for contest in contests:
        rows = _rows(contest, cfg.repeats, device_of(subject.trained.net))
        done.append((contest, rows))
        print_table(contest, rows)
        plain = [row.plain() for row in rows]
        about["contests"].append({**contest.facts, "rows": plain})
        write_json(folder / "benchmark.json", about)
    save_png(picture(str(subject), machine, KEY[cfg.mode], done), folder / "benchmark.png")
    console.print()
    for text in about["protocol"]:
        console.print(text)
    console.print(f"numbers     {folder / 'benchmark.json'}")
    console.print(f"picture     {folder / 'benchmark.png'}")


def _rows(contest: Contest, repeats: int, device: torch.device) -> list[Row]:
    turns = itertools.count()
    with progress(contest.title, (1 + repeats) * len(contest.contestants)) as meter:

        def on_turn(name: str) -> None:
            meter(next(turns), name)

        outcomes = race(contest.contestants, repeats, device, stopwatch(device), on_turn)
    rows = rows_of(contest, outcomes)
    forget()
    return rows


def _machine(where: dict[str, Any]) -> str:
    return (
        f"{where['device_name']}, threads: {where['threads']}, "
        f"torch {where['packages']['torch']}, fast number format: {where['precision']}"
    )


def folder_for(subject: Subject, out: str | None) -> Path:
    """`out`, or a new folder by date and time in the run, or below benchmarks/<experiment>."""
    if out:
        return Path(out)
    own = subject.trained.run_dir
    above = own if subject.fresh else own / "benchmarks"
    return above / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _about(subject: Subject, cfg: DictConfig) -> dict[str, Any]:
    """All that it takes to do it again."""
    device = device_of(subject.trained.net)
    fast = Precision().on(device).dtype
    options: Any = OmegaConf.to_container(cfg)
    return {
        "subject": str(subject),
        "net": subject.trained.digest,
        "step": subject.trained.step,
        "options": {name: options[name] for name in OPTIONS},
        "config": OmegaConf.to_container(subject.cfg),
        "environment": environment(device, fast),
        "protocol": [*PROTOCOL, OF[cfg.mode], *filter(None, [WHAT.get(device.type)])],
        "contests": [],
    }

"""Runs contests one after another and leaves the table, benchmark.json and benchmark.png."""

import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from ddiff.backends import device_of
from ddiff.benchmarking.plot import in_words, milliseconds, picture, three_digits
from ddiff.benchmarking.racing import MEMORY, Contest, Row, forget, race
from ddiff.benchmarking.subject import NetUnderTest
from ddiff.benchmarking.training import ALIKE
from ddiff.config.options import Benchmark, tree_of
from ddiff.pages.view import save_png
from ddiff.system.console import console, progress, show_table
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
# of fidelity: what stands over the column
FIGURES = {"psnr": "PSNR", "max_error": "max error", "loss": "loss", "loss_difference": "off by"}


def compare(subject: NetUnderTest, options: Benchmark, contests: Sequence[Contest]) -> None:
    """Every contest leaves its table when it is done, and is then in the file too."""
    folder = _folder(subject, options.out)
    check_outputs([folder / "benchmark.json", folder / "benchmark.png"], options.overwrite)
    about = _about(subject, options)
    write_json(folder / "benchmark.json", about)
    machine = _machine(about["environment"])
    console.print(f"net         {subject} ({subject.trained.digest})\nmachine     {machine}")
    if subject.fresh:
        console.print("note        an untrained net: as fast as a trained one, fidelity may differ")
    device = device_of(subject.trained.net)
    done: list[tuple[Contest, list[Row]]] = []
    for contest in contests:
        with progress(contest.title, (1 + options.repeats) * len(contest.contestants)) as meter:
            rows = race(contest, options.repeats, device, meter)
        forget()
        done.append((contest, rows))
        print_table(contest, rows)
        about["contests"].append({**contest.facts, "rows": [row.plain() for row in rows]})
        write_json(folder / "benchmark.json", about)
    save_png(picture(str(subject), machine, KEY[options.mode], done), folder / "benchmark.png")
    console.print()
    for text in about["protocol"]:
        console.print(text)
    console.print(f"numbers     {folder / 'benchmark.json'}")
    console.print(f"picture     {folder / 'benchmark.png'}")


def _folder(subject: NetUnderTest, out: str | None) -> Path:
    """`out`, or a new folder by date and time in the run, or below benchmarks/<experiment>."""
    if out:
        return Path(out)
    own = subject.trained.run_dir
    above = own if subject.fresh else own / "benchmarks"
    return above / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _about(subject: NetUnderTest, options: Benchmark) -> dict[str, Any]:
    """All that it takes to do it again."""
    device = device_of(subject.trained.net)
    fast = Precision().on(device).dtype
    plain = tree_of(options)
    return {
        "subject": str(subject),
        "net": subject.trained.digest,
        "step": subject.trained.step,
        "options": {name: plain.get(name) for name in OPTIONS},
        "config": tree_of(subject.options),
        "environment": environment(device, fast),
        "protocol": [*PROTOCOL, OF[options.mode], *filter(None, [MEMORY.get(device.type)])],
        "contests": [],
    }


def _machine(where: dict[str, Any]) -> str:
    return (
        f"{where['device_name']}, threads: {where['threads']}, "
        f"torch {where['packages']['torch']}, fast number format: {where['precision']}"
    )


def print_table(contest: Contest, rows: Sequence[Row]) -> None:
    """A line for each row, and below them why some could not run."""
    header, lines = table(rows)
    console.print()
    styles = ["yellow" if row.trouble else "" for row in rows]
    show_table(header, lines, contest.title, left=(0, 1), styles=styles)
    for line in troubles(rows):
        console.print(Text(line, "yellow"))


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and their cells; columns without a figure are left out."""
    figures = dict.fromkeys(name for row in rows for name in row.fidelity)
    memory = any(row.memory for row in rows)
    graphs = any(row.graphs for row in rows)
    header = ["backend", "precision", "ms/sample", "quartiles", "samples/s", "speed-up",
              "cold start", *["graphs"] * graphs, *["memory"] * memory,
              *(FIGURES[name] for name in figures)]  # fmt: skip
    lines = []
    for row in rows:
        if row.trouble:
            lines.append([row.backend, row.precision, "cannot run", *["-"] * (len(header) - 3)])
            continue
        low, middle, high = map(milliseconds, row.per_sample)
        # the graphs of the first batch, and how many more there were later
        made = f"{row.graphs or '-'}" + (f" +{row.recompiles}" if row.recompiles else "")
        lines.append([
            row.backend, row.precision, middle, f"{low} to {high}", three_digits(row.rate),
            f"{row.ratio:.2f}x", f"{row.cold_start:.1f} s", *[made] * graphs,
            *[_megabytes(row.memory)] * memory,
            *(in_words(row, name) for name in figures),
        ])  # fmt: skip
    return header, lines


def troubles(rows: Sequence[Row]) -> list[str]:
    """A line for each reason why rows cannot run, with those that it stops."""
    stopped: dict[str, list[str]] = {}
    for row in rows:
        if row.trouble:
            why = textwrap.shorten(row.trouble, 240)
            stopped.setdefault(why, []).append(f"{row.backend} {row.precision}")
    return [f"cannot run  {', '.join(names)}: {why}" for why, names in stopped.items()]


def _megabytes(memory: dict[str, int]) -> str:
    if not memory:
        return "-"
    count = next(iter(memory.values()))
    return f"{count / 2**20:.1f} MB" if count < 2**30 else f"{count / 2**30:.2f} GB"

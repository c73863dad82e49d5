"""python -m ddiff.kernels : builds the native kernels, checks them and times them."""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddiff.system.console import console, progress, show_table
from ddiff.system.errors import ConfigError, KernelError, nearest
from ddiff.system.files import write_json

if TYPE_CHECKING:
    from .compilers import Device

ABOUT = """\
Builds the native kernels, checks each against its torch reference on the same inputs, and times it.

  max error   largest |native - reference| over all outputs, and what is allowed
  ms          one call: the median of 3 to 11 readings, and half the range of their middle half
  GB/s        bytes that must move (each input read once, each output written once), by that time
  of copy     GB/s as a share of the fastest large copy on this device (the title names it), timed
              in the same rounds. About 100% is the best a kernel can do beyond the caches; a case
              that fits into them can be above; where the launch takes the time it is below
  speed-up    the time of what one writes in torch today, by the kernel's time

Native, reference, eager and copy take turns, so other work on the machine disturbs all alike: trust
the two ratios before the milliseconds. Environment: DDIFF_CACHE, DDIFF_BUILD_TIMEOUT, CXX, NVCC,
OMP_NUM_THREADS. More: docs/kernels.md."""

HEADINGS = ("operation", "case", "max error (allowed)", "ms", "GB/s", "of copy", "speed-up")


def arguments() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m ddiff.kernels", None, ABOUT, formatter_class=raw)
    parser.add_argument("names", nargs="*", help="operations (default: all)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--build", action="store_true", help="only build")
    only.add_argument("--check", action="store_true", help="only build and check")
    only.add_argument(
        "--cuda-report",
        type=Path,
        metavar="PATH",
        help="only compile every .cu for every GPU from sm_75 on (no GPU needed), and write "
        "each kernel's registers, spills and shared memory as JSON",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures as JSON")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    from ddiff.config.shell import one_line

    trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    with nullcontext() if trace else one_line("kernels"):
        if asked.cuda_report:
            report_cuda(asked.cuda_report, asked.names)
            return
        names = chosen(operations(asked.device), asked.names)
        build(names, asked.device)
        if not asked.build:
            measure(names, asked.device, timed=not asked.check, path=asked.json)


def operations(device: "Device") -> list[str]:
    """Those that have a version for it."""
    from .building import ROOT
    from .compilers import SUFFIX

    names = sorted(cases.parent.name for cases in ROOT.glob("*/cases.py"))
    return [name for name in names if (ROOT / name / f"{name}{SUFFIX[device]}").is_file()]


def chosen(known: list[str], names: list[str]) -> list[str]:
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no operation {name!r}{nearest(name, known)}")
    return names or known


def build(names: list[str], device: "Device") -> None:
    from .building import ROOT, library

    for name in names:
        seconds = library(ROOT / name, device).built_in
        console.print(f"{name:<20} {'cached' if seconds is None else f'built in {seconds:.1f} s'}")


def measure(names: list[str], device: "Device", timed: bool, path: Path | None) -> None:
    import torch

    from ddiff.system.environment import environment

    from .measuring import fastest_copy, measured

    copy_name, copy = fastest_copy(device) if timed else ("", None)
    rows = []
    with progress("operations", len(names)) as meter:
        for done, name in enumerate(names):
            for case in import_module(f"ddiff.kernels.{name}.cases").cases(device):
                meter(done, f"{name}, {case.name}")
                rows.append({"operation": name, **measured(case, device, copy)})
        meter(len(names))
    title = ""
    if timed:
        speed = statistics.median(row["copy_gb_per_second"] for row in rows)
        title = f"fastest copy: {copy_name}, {speed:.1f} GB/s"
    header = HEADINGS if timed else HEADINGS[:3]
    show_table(header, [shown(row) for row in rows], title, left=(0, 1))
    if path:
        where = environment(torch.device(device), precision="each case's own")
        write_json(path, {"environment": where, "copy": copy_name, "cases": rows})
    if wrong := [f"{row['operation']} {row['case']}" for row in rows if not row["correct"]]:
        raise KernelError(f"not as the reference says: {'; '.join(wrong)}")


def shown(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    mark = "" if row["correct"] else " WRONG"
    cells = [row["operation"], row["case"], f"{row['max_error']:.1e} ({row['allowed']:.0e}){mark}"]
    if "milliseconds" in row:
        time = row["milliseconds"]["native"]
        cells += [
            f"{time['median']:.3f} ± {time['spread']:.3f}",
            f"{row['gb_per_second']:.1f}",
            f"{row['share_of_copy']:.0%}",
            f"{row['speed_up_over_eager']:.2f}",
        ]
    return cells


def report_cuda(path: Path, names: list[str]) -> None:
    from .building import ROOT
    from .cuda_report import compiled, known_gpus, nvcc_release

    files = {source.parent.name: source for source in ROOT.glob("*/*.cu")}
    gpus = known_gpus()
    uses = []
    for name in chosen(sorted(files), names):
        started = time.perf_counter()
        uses += compiled(files[name], gpus)
        console.print(f"{name:<20} compiled in {time.perf_counter() - started:.1f} s")
    rows = []
    for (source, kernel), group in groupby(uses, lambda use: (use.source, use.kernel)):
        figures = [(use.registers, use.spills, use.stack, use.shared) for use in group]
        rows.append([source, kernel, *map(span, zip(*figures, strict=True))])
    header = ("source", "kernel", "registers", "spills", "stack", "shared")
    show_table(header, rows, ", ".join(gpus), left=(0, 1))
    write_json(path, {"nvcc": nvcc_release(), "gpus": gpus, "kernels": [asdict(u) for u in uses]})


def span(values: Sequence[int]) -> str:
    """Range of a kernel's usage over the GPUs, in words."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()

"""The table of what ddiff means to reach: each figure, its target, its floor.

    python experiments/numbers/measure.py                  # ten minutes, on a quiet machine
    python experiments/numbers/measure.py --machine amx    # figures of experiments/<study>/amx

Measures what this machine can do at best (matrix products, copies), how fast spheres are made, and
`experiment=voxel_adaptive` from nothing; every other figure is read from the study that measured
it. Writes results.json and README.md, for a named machine into a folder of its name.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from table import Machine, Row, Studies, page, rows

from ddiff.data import Spheres
from ddiff.kernels.measuring import COPY_BYTES, fastest_copy
from ddiff.system.environment import environment

HERE, RUN = Path(__file__).parent, Path("runs/numbers/voxel_adaptive")


@dataclass(frozen=True)
class Demo:
    """Result of a whole `python -m ddiff.train`: its duration, and the quality of its samples."""

    minutes: float
    validity: float
    low: float  # of its 95% interval


def seconds_of(call: Callable[[], object], repeats: int = 9) -> list[float]:
    call()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


def machine() -> Machine:
    flops = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        x = torch.randn(16, 256, 32, 32).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(256, 256, 3, 3).to(dtype, memory_format=torch.channels_last)
        flops[str(dtype)[6:]] = max(
            2 * 2048**3 / min(seconds_of(lambda a=a, b=b: a @ b)),
            2 * weight.numel() * 16 * 32**2
            / min(seconds_of(lambda x=x, w=weight: F.conv2d(x, w, padding=1))),
        )  # fmt: skip
    _, copy = fastest_copy("cpu")
    return Machine(flops, 2 * COPY_BYTES / min(seconds_of(copy)))


def spheres(num: int = 1000) -> list[float]:
    """Seconds to make them, 8 at a time as training does."""
    data = Spheres(batch_size=8, seed=0, num=num)
    source, _ = data.sources()
    batches = torch.arange(num).split(8)
    return seconds_of(lambda: [source.batch(indices) for indices in batches], repeats=5)


def demo() -> Demo:
    """Trained anew where the run is not there yet."""
    if not (RUN / "metrics.json").is_file():
        call("train", f"run_dir={RUN}")
    out = RUN / "evaluations/numbers.json"
    if not out.is_file():
        call("evaluate", f"run={RUN}", "num_samples=100", "metrics=[sphere_law]", f"out={out}")
    (valid,) = (f for f in json.loads(out.read_text())["figures"] if f["name"] == "validity")
    minutes = json.loads((RUN / "metrics.json").read_text())["seconds"] / 60
    return Demo(minutes, valid["value"], valid["low"])


def call(verb: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"ddiff.{verb}", *options], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", help="the folder of its figures in each study")
    name = parser.parse_args().machine
    out, words = HERE / (name or ""), f" --machine {name}" if name else ""
    found: dict[str, Any] = {
        "command": f"python experiments/numbers/measure.py{words}",
        "up": "../.." if name else "..",  # to experiments/
        "environment": environment(torch.device("cpu"), "as named"),
        "machine": asdict(machine()),
        "spheres": statistics.median(spheres()),
        "demo": asdict(demo()),
    }
    made: list[Row] = rows(
        Machine(**found["machine"]), found["spheres"], found["demo"], Studies(name)
    )
    found["rows"] = [asdict(row) for row in made]
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    text = page(found, made, out / "verdict.md")
    (out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

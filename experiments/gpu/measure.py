"""Everything that needs a GPU, in ten minutes: `make gpu`.

    python experiments/gpu/measure.py                  # on a machine with a GPU
    python experiments/gpu/measure.py --minutes 5      # what is worth most comes first
    python experiments/gpu/measure.py --dry            # all of it on a CPU, tiny; the tests do this
    python experiments/gpu/measure.py --plan           # the parts, and what they may take

Parts run one after another, each as a process of its own, in the order of their worth, until the
time is over. A part that takes twice what was predicted, and 20 seconds, is cut, so that one that
hangs leaves time for the rest. What a part writes lies in OUT/<part>, of tests what became of each
(outcomes.py); parts.json says, after every part, how each ended, how long it took and what its
limit was; README.md is made from it. What fails is said at the end, and the rest goes on. It needs
no data but what it makes.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SPARE = 20  # seconds of a part's limit, beyond twice the prediction: starts of Python and CUDA
TAIL = 4000  # characters of what a failed part said
TINY = ("num_steps=2", "batch_sizes=[2]", "repeats=1", "backends=[eager,native]",
        "precisions=[fp32]", "accelerator=cpu", "trainer=cpu")  # fmt: skip
SMALL = ("net.channels=[8,16]", "net.num_blocks=1", "net.mid_attention=false")
TWO_LEVELS = ("net.channels=[32,32]", "net.attention=[]")
ALL = "precisions=[fp32,tf32,bf16,fp16]"


@dataclass(frozen=True)
class Part:
    """`words` after `python -m`; `dry` follows them, or takes their place, on a CPU."""

    name: str
    seconds: float  # predicted
    words: tuple[str, ...]
    dry: tuple[str, ...]

    @property
    def limit(self) -> float:
        return 2 * self.seconds + SPARE


def suite(name: str, seconds: int, *words: str, dry: tuple[str, ...] = ()) -> Part:
    return Part(name, seconds, ("pytest", "-q", "-p", "no:cacheprovider", *words), dry)


def benchmark(name: str, seconds: int, *words: str, dry: Sequence[str] = SMALL) -> Part:
    """The report goes to OUT/<name>."""
    common = ("ddiff.benchmark", "accelerator=gpu", "trainer=gpu", "overwrite=true", *words)
    return Part(name, seconds, common, (*TINY, *dry))


PARTS = (
    Part("kernels", 45, ("ddiff.kernels", "--device", "cuda", "--check"),
         ("pytest", "-q", "tests/kernels/test_emulation.py", "-k", "as_they_are")),
    suite("kernel_tests", 30, "tests/kernels", "-k", "cuda and not compiles and not emulated",
          dry=("-k", "emulated and forward and definition and group_norm")),
    suite("backend_tests", 70, "tests/gpu/test_backends.py"),
    suite("engine_tests", 60, "tests/gpu/test_tensorrt_files.py"),
    # launch-bound: 4 images of 28 x 28, 1,000 steps; ten times eager is wanted
    benchmark("simple2d", 40, "experiment=mnist_ddpm", "net=simple2d", "solvers=[ddpm]",
              "num_steps=1000", "batch_sizes=[4]", "precisions=[fp32,fp16]", "repeats=3",
              "backends=[eager,eager+graph,native+graph:false,native]", dry=["net.channels=8"]),
    benchmark("cifar10", 50, "experiment=cifar10_ddpm", "net=unet_ddpm_cifar10",
              "solvers=[dpmpp_2m]", "num_steps=50", "batch_sizes=[8,64]", ALL, "repeats=3",
              "backends=[eager,eager+graph,native]", dry=TWO_LEVELS),
    benchmark("voxel", 30, "experiment=voxel_baseline", "num_steps=50", "batch_sizes=[8,64]", ALL,
              "repeats=3", "backends=[eager,eager+graph,native]", dry=("data.size=16", *SMALL)),
    benchmark("cifar10_training", 35, "mode=train", "experiment=cifar10_ddpm",
              "net=unet_ddpm_cifar10", "batch_sizes=[128]", ALL, "backends=[eager,native]",
              dry=TWO_LEVELS),
    benchmark("voxel_training", 25, "mode=train", "experiment=voxel_baseline", "batch_sizes=[32]",
              ALL, "backends=[eager,native]", dry=("data.size=16", *SMALL)),
    suite("memory", 35, "tests/gpu/test_memory.py"),  # of 64^3, under a cap
    benchmark("cifar10_compiled", 60, "experiment=cifar10_ddpm", "net=unet_ddpm_cifar10",
              "solvers=[dpmpp_2m]", "num_steps=50", "batch_sizes=[64]", "precisions=[bf16]",
              "repeats=3", "backends=[eager,compiled]", dry=TWO_LEVELS),
    Part("kernel_times", 40, ("ddiff.kernels", "--device", "cuda"), ("--help",)),
    suite("trainings", 40, "tests/gpu/test_gpu.py"),
)  # fmt: skip


def command(part: Part, out: Path, dry: bool) -> list[str]:
    words = list(part.words)
    if words[0] == "ddiff.benchmark":
        words.append(f"out={out / part.name}")
    if words[:3] == ["ddiff.kernels", "--device", "cuda"] and not dry:
        words += ["--json", str(out / f"{part.name}.json")]
    if dry:
        words = list(part.dry) if part.dry[:1] == ("pytest",) else [*words, *part.dry]
    if words[0] == "pytest":
        words += ["-p", "outcomes", "--outcomes", str(out / f"{part.name}.json")]
    return [sys.executable, "-m", *words]


def surroundings(dry: bool) -> dict[str, str]:
    """The environment of a part; the tests of a GPU take stand-ins for one where it is dry."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "DDIFF_GPU_DRY": str(int(dry))}


def run(words: list[str], limit: float, dry: bool = False) -> tuple[int | None, str]:
    """Exit status, None where it was cut, and what it said."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            words, cwd=ROOT, env=surroundings(dry), stdout=said,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(max(1.0, limit))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        said.seek(0)
        return status, said.read()


def measured(parts: Sequence[Part], out: Path, minutes: float, dry: bool) -> list[dict[str, Any]]:
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    found: list[dict[str, Any]] = []
    for part in parts:
        started = time.monotonic()
        row: dict[str, Any] = {"part": part.name, "predicted": part.seconds}
        if started < end:
            words, tests = command(part, out, dry), out / f"{part.name}.json"
            tests.unlink(missing_ok=True)  # of an earlier run
            left = end - started
            limit = left if dry else min(part.limit, left)  # predictions are for a GPU
            print(f"\n$ python {' '.join(words[1:])}", flush=True)
            status, said = run(words, limit, dry)
            print(said, flush=True)
            row |= {"limit": limit, "seconds": time.monotonic() - started, "status": status,
                    "command": ["python", *words[1:]]}  # fmt: skip
            if status not in (0, 5):  # 5: pytest found every test left out
                row["said"] = said[-TAIL:]
            if words[2] == "pytest" and tests.exists():
                row["tests"] = json.loads(tests.read_text())
        found.append(row)
        (out / "parts.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def ended(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return "not begun"
    return {0: "passed", 5: "passed", None: "cut"}.get(row["status"], "**failed**")


def counted(row: dict[str, Any]) -> str:
    """Numbers of a part's tests, where it has some."""
    tests = row.get("tests")
    if tests is None:
        return ""
    counts = {"passed": tests["passed"], "failed": len(tests["failed"]),
              "skipped": sum(tests["skipped"].values())}  # fmt: skip
    return ": " + ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def page(found: list[dict[str, Any]], where: str) -> str:
    predicted, taken = (sum(row.get(key, 0) for row in found) for key in ("predicted", "seconds"))
    lines = [
        "# On a GPU",
        "",
        f"{where}: {predicted / 60:.1f} minutes predicted, {taken / 60:.1f} taken. The parts come",
        "in the order of their worth; a part is cut at its limit, and all after ten minutes.",
        "",
        "| part | predicted, s | limit, s | taken, s | |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        taken = f"{row['seconds']:.0f}" if "seconds" in row else ""
        limit = f"{row['limit']:.0f}" if "limit" in row else ""
        lines.append(
            f"| {row['part']} | {row['predicted']} | {limit} | {taken} | {ended(row)}"
            f"{counted(row)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", HERE)))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny; writes nothing")
    parser.add_argument("--plan", action="store_true", help="only say what there is to do")
    given = parser.parse_args()
    if given.plan:
        print(
            page(
                [
                    {"part": part.name, "predicted": part.seconds, "limit": part.limit}
                    for part in PARTS
                ],
                "`make gpu` has not run on a GPU yet",
            )
        )
        return
    if given.dry:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(PARTS, Path(folder), given.minutes, dry=True)
    else:
        if not shutil.which("nvidia-smi"):
            sys.exit("there is no NVIDIA GPU here; --dry runs all of it on a CPU")
        found = measured(PARTS, given.out, given.minutes, dry=False)
        name = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                              capture_output=True, text=True, check=True).stdout  # fmt: skip
        (given.out / "README.md").write_text(page(found, f"`make gpu` on {name.splitlines()[0]}"))
    failed = [row["part"] for row in found if ended(row) not in ("passed", "not begun")]
    print(page(found, "On a CPU, dry" if given.dry else "On this GPU"))
    if failed:
        sys.exit(f"not passed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

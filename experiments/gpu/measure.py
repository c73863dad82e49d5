"""Everything about speed that needs a GPU, in one command: `make gpu`.

    python experiments/gpu/measure.py [FOLDER]

Writes into FOLDER (default: $OUT, else experiments/gpu): kernels.json (every kernel against its
reference and the copy bandwidth), for each net a folder with benchmark.json and benchmark.png, and
memory (what each lever of memory saves and costs: experiments/memory_levers).
What fails is said at the end, and the rest goes on.
"""

import os
import subprocess
import sys
from pathlib import Path

MEMORY = Path(__file__).parents[1] / "memory_levers" / "measure.py"
BACKENDS = "[eager,eager+graph,compiled,native+graph:false,native,tensorrt]"
SAMPLING = {
    # launch-bound: 4 images of 28 x 28, 1,000 steps
    "simple2d": [
        *("experiment=mnist_ddpm", "net=simple2d", "solvers=[ddpm]", "num_steps=1000"),
        *("batch_sizes=[4]", "precisions=[fp32,fp16]"),
    ],
    "cifar10": [
        *("experiment=cifar10_ddpm", "net=unet_ddpm_cifar10", "solvers=[dpmpp_2m]"),
        *("num_steps=50", "batch_sizes=[8,64]", "precisions=[fp32,tf32,bf16,fp16]"),
    ],
    "voxel": [
        *("experiment=voxel_baseline", "num_steps=50", "batch_sizes=[8,64]"),
        "precisions=[fp32,tf32,bf16,fp16]",
    ],
}
TRAINING = {
    "cifar10_training": ["experiment=cifar10_ddpm", "net=unet_ddpm_cifar10", "batch_sizes=[128]"],
    "voxel_training": ["experiment=voxel_baseline", "batch_sizes=[32]"],
}


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OUT", "experiments/gpu"))
    out.mkdir(parents=True, exist_ok=True)
    jobs = [["kernels", "--device", "cuda", "--json", str(out / "kernels.json")]]
    for name, options in SAMPLING.items():
        jobs.append(["benchmark", *options, f"backends={BACKENDS}", f"out={out / name}",
                     "overwrite=true"])  # fmt: skip
    for name, options in TRAINING.items():
        jobs.append(["benchmark", "mode=train", *options, "precisions=[fp32,tf32,bf16,fp16]",
                     f"out={out / name}", "overwrite=true"])  # fmt: skip
    failed = [job for job in jobs if subprocess.run([sys.executable, "-m", *named(job)]).returncode]
    memory = [str(MEMORY), "--device", "cuda", "--limit-gb", "40", "--out", str(out / "memory")]
    print(f"\n$ python {' '.join(memory)}", flush=True)
    if subprocess.run([sys.executable, *memory]).returncode:
        failed.append(memory)
    for job in failed:
        print("failed:", " ".join(job), file=sys.stderr)
    sys.exit(len(failed))


def named(job: list[str]) -> list[str]:
    verb, *options = job
    print(f"\n$ python -m ddiff.{verb} {' '.join(options)}", flush=True)
    return [f"ddiff.{verb}", *(["accelerator=gpu"] if verb == "benchmark" else []), *options]


if __name__ == "__main__":
    main()

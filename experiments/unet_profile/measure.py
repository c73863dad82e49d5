"""Measures where one evaluation of a U-Net goes on this machine, by kind of operation.

    python experiments/unet_profile/measure.py            # a minute on two cores

Writes results.json and README.md beside this file.
"""

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddiff.nets import UNet
from ddiff.nets.embedding import Sinusoidal
from ddiff.system.environment import environment

HERE = Path(__file__).parent
NETS: dict[str, dict] = {
    "CIFAR net, 35.7 M parameters": {
        "shape": (3, 32, 32),
        "channels": (128, 256, 256, 256),
        "attention": (16,),
        "modulation": "shift",
        "embedding": 128,
    },
    "voxel net, patch 4": {
        "shape": (1, 64, 64, 64),
        "channels": (32, 48, 64),
        "num_blocks": 1,
        "patch_size": 4,
        "input_skip": True,
        "groups": 8,
        "head_dim": 32,
        "embedding": 64,
    },
}


def build(options: dict) -> UNet:
    options = dict(options)
    embedding = Sinusoidal(options.pop("embedding"))
    net = UNet(num_classes=None, embedding=embedding, **options).eval()
    layout = torch.channels_last if len(net.shape) == 3 else torch.channels_last_3d
    return net.to(memory_format=layout)  # pyright: ignore[reportCallIssue]


class Clock(TorchDispatchMode):
    """Seconds and FLOPs by kind of operation, of what runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        started = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        elapsed = time.perf_counter() - started
        kind, flops = described(str(func).split(".")[1], args, out)
        self.seconds[kind] += elapsed
        self.flops[kind] += flops
        return out


def described(name: str, args: tuple, out: Any) -> tuple[str, float]:
    """The kind of an operation, and its FLOPs where products are its work."""
    if name == "convolution":
        x, weight, _, stride, _, _, transposed, *_ = args
        return described_convolution(x, weight, stride, transposed, out)
    if "native_group_norm" in name or "silu" in name:
        return "group norm, SiLU", 0
    if "attention" in name:
        q, k = args[:2]
        return "attention and linear layers", 4 * q.numel() * k.shape[-2]
    if name in ("addmm", "mm", "bmm"):
        a, b = args[-2:]
        return "attention and linear layers", 2 * a.numel() * b.shape[-1]
    return {"_to_copy": "casts", "cat": "concatenation"}.get(name, "rest"), 0


def described_convolution(
    x: Tensor, weight: Tensor, stride: list[int], transposed: bool, out: Tensor
) -> tuple[str, float]:
    places = x if transposed else out  # each meets the whole kernel once
    flops = 2 * weight.numel() * len(x) * math.prod(places.shape[2:])
    dims, kernel = len(stride), weight.shape[-1]
    if transposed:
        return "convolution, transposed (upsampling)", flops
    if kernel == 1:
        return "convolution, kernel 1", flops
    if stride[0] > 1:
        return f"convolution, kernel {kernel}, stride {stride[0]}", flops
    return f"convolution, kernel {kernel}, at {x.shape[-1]}^{dims}", flops


def profile(options: dict, batch: int, dtype: torch.dtype, rounds: int) -> dict[str, dict]:
    """Median over rounds: for each kind its milliseconds and GFLOP; and the whole without clock."""
    net = build(options)
    x, t = torch.randn(batch, *net.shape), torch.randint(0, 1000, (batch,))
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    clocks, whole = [], []
    with torch.no_grad(), bf16:  # inference_mode would hide what conv2d is made of
        for _ in range(rounds + 1):
            whole.append(seconds(lambda: net(x, t)))
            with Clock() as clock:
                net(x, t)
            clocks.append(clock)
    kinds = {}
    for kind in sorted(clocks[0].seconds):
        ms = 1e3 * statistics.median(c.seconds[kind] for c in clocks[1:])
        kinds[kind] = {"ms": ms, "gflop": clocks[0].flops[kind] / 1e9}
    return {"whole": {"ms": 1e3 * statistics.median(whole[1:])}, **kinds}


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def table(fp32: dict[str, dict], bf16: dict[str, dict]) -> list[str]:
    lines = [
        "| kind | GFLOP | fp32 ms | GFLOP/s | bf16 ms | GFLOP/s | share of bf16 |",
        "|---|---|---|---|---|---|---|",
    ]
    total = sum(row["ms"] for kind, row in bf16.items() if kind != "whole")
    nothing = {"ms": 0.0, "gflop": 0.0}
    for kind in sorted({*fp32, *bf16} - {"whole"}):
        a, b = fp32.get(kind, nothing), bf16.get(kind, nothing)
        gflop = b["gflop"]
        rates = [f"{gflop / row['ms'] * 1e3:.0f}" if gflop else "" for row in (a, b)]
        lines.append(
            f"| {kind} | {gflop:.2f} | {a['ms']:.1f} | {rates[0]} | {b['ms']:.1f} | {rates[1]} "
            f"| {b['ms'] / total:.0%} |"
        )
    whole = f"| **one evaluation, without the clock** | | **{fp32['whole']['ms']:.0f}** | "
    return [*lines, whole + f"| **{bf16['whole']['ms']:.0f}** | | |", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    where = environment(torch.device("cpu"), "float32 and bfloat16")
    report = [
        "# Where one evaluation of a U-Net goes",
        "",
        f"*Which operations are worth a kernel on a CPU?* Batch {args.batch}, inference, eager,",
        f"channels last, on {where['device_name']}, {where['threads']} threads, "
        f"torch {torch.__version__}; medians of",
        f"{args.rounds} evaluations with a clock around every operation. Written by "
        "`python experiments/unet_profile/measure.py`.",
        "bf16 is autocast, so each evaluation casts its weights again.",
        "",
        (HERE / "verdict.md").read_text(),
    ]
    results: dict[str, object] = {"environment": where, "batch": args.batch}
    for name, options in NETS.items():
        fp32, bf16 = (
            profile(options, args.batch, dtype, args.rounds)
            for dtype in (torch.float32, torch.bfloat16)
        )
        results[name] = {"fp32": fp32, "bf16": bf16}
        report += [f"## {name}", "", *table(fp32, bf16)]
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "README.md").write_text("\n".join(report))
    print("\n".join(report))


if __name__ == "__main__":
    main()

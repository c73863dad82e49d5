"""Measures what reusing a U-Net's deep features between steps gains, and what it costs.

    python -m ddiff.train experiment=classifier data=digits
    python -m ddiff.train experiment=digits_cfg guidance=none run_dir=runs/digits
    python experiments/deep_features/measure.py run=runs/digits      # ten minutes on two cores

As in DeepCache (Ma et al. 2024), an evaluation that reuses runs the layers of the full size only;
what comes from the sizes below is that of the last full evaluation. Writes results.json and
README.md beside this file.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import ddiff
from ddiff.backends import Eager
from ddiff.config.shell import run_verb
from ddiff.nets import Sinusoidal, UNet
from ddiff.nets.blocks import Downsample, Upsample
from ddiff.nets.patches import depth_to_space, space_to_depth
from ddiff.system.environment import environment

HERE = Path(__file__).parent
NETS = {  # the U-Nets of recipes: batch, shape, options
    "digits 8 x 8": (64, (1, 8, 8), {"channels": (32, 64), "groups": 8}),
    "Fashion-MNIST 28 x 28": (16, (1, 28, 28), {"channels": (32, 64, 96)}),
    "CIFAR-10 32 x 32": (4, (3, 32, 32), {"channels": (128, 256, 256, 256)}),
    "volumes 64^3, patch 4": (
        4, (1, 64, 64, 64), {"channels": (32, 48, 64), "num_blocks": 1, "patch_size": 4},
    ),
}  # fmt: skip
ROUNDS, SAMPLES = 7, 1000
STEPS = {1: (5, 6, 8, 10, 12, 16), 2: (8, 12, 16, 20), 3: (9, 12, 18)}


class Reusing(UNet):
    """A U-Net that runs what lies below the full size in every `every`-th evaluation only."""

    every, asked = 1, 0

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        blocks = [type(layer).__name__ for layer in self.down].index("Downsample")  # of a level
        emb = F.silu(self.condition(t, y))
        skips = [self.stem(space_to_depth(x, self.patch_size))]
        for layer in self.down[:blocks]:
            skips.append(layer(skips[-1], emb))
        if self.asked % self.every == 0:
            self.deep = self.below(skips[-1], emb, blocks)
        self.asked += 1
        h = self.deep
        for layer in self.up[-blocks - 1 :]:
            h = layer(h, emb, skips.pop())
        return depth_to_space(self.out(self.norm(h)), self.patch_size)

    def below(self, h: Tensor, emb: Tensor, blocks: int) -> Tensor:
        """Return what comes up to the full size."""
        skips: list[Tensor] = []
        for layer in self.down[blocks:]:
            h = layer(h) if isinstance(layer, Downsample) else layer(h, emb)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, emb)
        for layer in self.up[: -blocks - 1]:
            h = layer(h) if isinstance(layer, Upsample) else layer(h, emb, skips.pop())
        return h


def share_below(batch: int, shape: tuple[int, ...], options: dict) -> dict[str, float]:
    """The time of a whole evaluation in ms, and the share that lies below the full size."""
    net = Reusing(shape, None, embedding=Sinusoidal(64), head_dim=32, **options).eval()
    net = net.to(memory_format=torch.channels_last if len(shape) == 3 else torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    x, t = torch.randn(batch, *shape), torch.randint(0, 1000, (batch,))
    spent: dict[int, list[float]] = {1: [], 10**9: []}  # every evaluation whole; all reuse
    with torch.inference_mode():
        assert torch.equal(net(x, t), UNet.forward(net, x, t))
        for _ in range(ROUNDS):
            for every, times in spent.items():
                net.every, net.asked = every, 1
                started = time.perf_counter()
                net(x, t)
                times.append(time.perf_counter() - started)
    whole, outer = (statistics.median(times) for times in spent.values())
    return {"ms": 1e3 * whole, "share": 1 - outer / whole}


def drawn(model: ddiff.Model, num_steps: int, every: int) -> np.ndarray:
    """Samples of dpmpp_2m [SAMPLES, C, *S], of the same noise whatever the other arguments."""
    net: Any = model.net
    assert net.gain is None
    assert not net.bounded
    net.__class__ = Reusing
    net.every, net.asked = every, 0
    samples = []
    for first in range(0, SAMPLES, 250):
        net.asked = 0
        samples.append(
            model.sample(250, solver="dpmpp_2m", num_steps=num_steps, batch_size=250,
                         seed=first, guidance=0.0, backend=Eager())
        )  # fmt: skip
    return np.concatenate(samples)


def fid(samples: np.ndarray, folder: Path, data: str) -> dict[str, float]:
    np.save(folder / "samples.npy", samples)
    out = folder / "figures.json"
    words = [f"samples={folder}/samples.npy", f"data={data}", "metrics=[fid,precision_recall]",
             "value_range=signed", f"out={out}", "overwrite=true"]  # fmt: skip
    status, reason = run_verb("evaluate", words)
    if status:
        sys.exit(reason)
    return {f["name"]: f["value"] for f in json.loads(out.read_text())["figures"]}


def along(model: ddiff.Model, share: float, data: str) -> list[dict[str, float]]:
    """Distances of samples to the long solution, and their figures, by their cost."""
    long, rows = drawn(model, 200, 1), []
    with tempfile.TemporaryDirectory() as folder:
        for every in (1, 2, 3):
            for num_steps in STEPS[every]:
                samples = drawn(model, num_steps, every)
                whole = math.ceil(num_steps / every)
                cost = whole + (num_steps - whole) * (1 - share)
                error = float(np.sqrt(np.mean((samples - long) ** 2)))
                figures = fid(samples, Path(folder), data)
                rows.append({"every": every, "steps": num_steps, "cost": cost, "rms": error}
                            | figures)  # fmt: skip
                print(rows[-1], flush=True)
    return sorted(rows, key=lambda row: row["cost"])


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    model = ddiff.load(options["run"], accelerator="cpu")
    data = options.get("data", "digits")
    where = environment(torch.device("cpu"), "float32")
    shares = {name: share_below(*net) for name, net in NETS.items()}
    rows = along(model, shares["digits 8 x 8"]["share"], data)
    lines = [
        "# Is it worth keeping a U-Net's deep features for the next steps?",
        "",
        "*Neighbouring steps ask the net almost the same question. DeepCache (Ma et al. 2024) runs",
        "the layers below the full size in every second or third step only.* Float32,",
        f"{where['device_name']}, {where['threads']} threads, torch {torch.__version__}.",
        "Written by `python experiments/deep_features/measure.py`.",
        "",
        (HERE / "verdict.md").read_text(),
        "## What can be saved",
        "",
        f"Medians of {ROUNDS} evaluations of each kind in turns.",
        "",
        "| net | an evaluation, ms | share below the full size | every second step: at most |",
        "|---|---|---|---|",
    ]
    for name, found in shares.items():
        gain = 1 / (1 - found["share"] / 2)
        lines.append(f"| {name} | {found['ms']:.1f} | {found['share']:.0%} | {gain:.2f} times |")
    lines += [
        "",
        "## What it costs",
        "",
        f"{SAMPLES:,} digits by `dpmpp_2m`, without guidance, by cost: whole evaluations that take",
        "as long. `distance`: root mean square to 200 steps from the same noise.",
        "",
        "| cost | steps | deep features | distance | FID | precision | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kept = {1: "new in every step", 2: "in every second", 3: "in every third"}[
            int(row["every"])
        ]
        lines.append(
            f"| {row['cost']:.1f} | {row['steps']} | {kept} | {row['rms']:.3f} | {row['fid']:.2f} "
            f"| {row['precision']:.2f} | {row['recall']:.2f} |"
        )
    results = {"environment": where, "shares": shares, "rows": rows}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

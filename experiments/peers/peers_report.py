"""The page that says what was measured."""

import statistics
from pathlib import Path
from typing import Any

PEER, SAME_NET, SAME_TASK = "peer", "ddiff, the same net", "ddiff, the same task"
TARGETS = (  # contest, ddiff's rows, which of the peer's rows, factor to reach
    ("voxel_training", SAME_TASK, "default", 20.0),
    ("cifar_training", SAME_NET, "default", 3.0),
    ("cifar_training", SAME_NET, "best", 2.0),
)
INTRO = """# ddiff beside its peers

*How fast are a training step and a sampling step, beside diffusers' `UNet2DModel` (the
configuration of google/ddpm-cifar10-32) and MONAI's `DiffusionModelUNet` (3D)?*

```
python experiments/peers/measure.py
```

It makes the peers' environment (.venv-peers, pins in requirements.txt) beside the same torch. Every
row is a process of its own; one works at a time, a round goes over all rows; medians and quartiles
over rounds. The nets are the peers' own classes; the arithmetic around them is ddiff's own in
every row (lineup.py): noise, loss, backward, clipping, fused Adam or AdamW, averaged weights; in
sampling, an evaluation of the net and a step of DDIM of a plan of 20.

"""
COLUMNS = """Memory: how far the process rises above its libraries, all included (weights, averaged weights,
moments, gradients, activations, what a compiler leaves); on a GPU, the peak of torch's allocator.
Cold start: from the start of the process to the end of its first step, imports included, caches of
compiled code and of kernels empty. *Default*: what one gets without asking for speed.

"""  # noqa: E501


def written(results: dict[str, Any], verdict: Path) -> str:
    """The page; the verdict, written by a person, is taken into it."""
    lines = [INTRO, verdict.read_text() if verdict.is_file() else ""]
    lines += ["", *targets(results["contests"]), *work(results["nets"]), COLUMNS]
    for contest in results["contests"].values():
        lines += table(contest)
    if "quality" in results:
        lines += quality(results["quality"])
    return "\n".join(lines).rstrip() + "\n"


def rate(row: dict[str, Any]) -> float:
    """Samples a second: volumes or images through one step."""
    return row["batch"] / statistics.median(row["seconds"])


def able(contest: dict[str, Any], group: str) -> list[dict[str, Any]]:
    return [row for row in contest["rows"] if row["group"] == group and row["seconds"]]


def chosen(contest: dict[str, Any], group: str, which: str) -> dict[str, Any] | None:
    """The default row of a group, or its fastest; None where none could run."""
    rows = able(contest, group)
    if which == "default":
        rows = [row for row in rows if row["default"]]
    return max(rows, key=rate, default=None)


def targets(contests: dict[str, Any]) -> list[str]:
    """ddiff's default and best against what DESIGN wants, in samples a second."""
    lines = [
        "## Against the targets, samples a second",
        "",
        "| contest | against | to reach | ddiff's default | ddiff's best |",
        "|---|---|---|---|---|",
    ]
    for name, group, which, factor in TARGETS:
        if name not in contests or not (peer := chosen(contests[name], PEER, which)):
            continue
        cells = [f"| {contests[name]['title']} | {peer['name']} ({which}) | {factor:g}x "]
        for own in ("default", "best"):
            row = chosen(contests[name], group, own)
            cells.append(f"| {rate(row) / rate(peer):.3g}x, {row['name']} " if row else "| - ")
        lines.append("".join(cells) + "|")
    return [*lines, ""]


def work(nets: dict[str, Any]) -> list[str]:
    """Section on the work that each net does, stated exactly."""
    lines = [
        "## Who does what work",
        "",
        "| net | parameters | resolution | GFLOP, forward of one sample |",
        "|---|---|---|---|",
    ]
    for name, net in nets.items():
        size = " x ".join(map(str, net["shape"]))
        lines.append(f"| {name} | {net['parameters']:,} | {size} | {net['flops'] / 1e9:.3f} |")
    return [
        *lines,
        "",
        "The same net has the same parameters, to the last one. ddiff's takes fewer FLOPs because",
        "it computes *repeat, then convolve* as the one transposed convolution that equals both",
        "(tests/test_peers.py accounts for the difference exactly). The same task is another net:",
        "a patch stem of 4 before a smaller U-Net, for the same 64^3 volumes.",
        "",
    ]


def table(contest: dict[str, Any]) -> list[str]:
    """A contest's rows by group, beside the peer's default and its best."""
    where, peers = (
        contest["environment"],
        {w: chosen(contest, PEER, w) for w in ("default", "best")},
    )
    versions = ", ".join(f"{n} {where['packages'][n]}" for n in ("torch", "diffusers", "monai"))
    last = "| of 20 steps, s " if contest["mode"] == "sampling" else ""
    lines = [
        f"## {contest['title']}",
        "",
        f"{where['device_name']}, {where['threads']} threads; {versions}; "
        f"{contest['rounds']} rounds.",
        "",
        "| | batch | ms a sample, quartiles | samples/s | against the peer's default "
        f"| against its best {last}| memory, MB | cold start, s |",
        "|---|---|---|---|---|---|---|---|" + ("---|" if last else ""),
    ]
    for group in (PEER, SAME_NET, SAME_TASK):
        rows = [row for row in contest["rows"] if row["group"] == group]
        lines += [f"| *{group}* |"] if rows else []
        lines += [line(row, peers, bool(last)) for row in rows]
    return [*lines, ""]


def line(row: dict[str, Any], peers: dict[str, dict[str, Any] | None], sampling: bool) -> str:
    name = f"{row['name']} *(default)*" if row["default"] else row["name"]
    if "trouble" in row:
        return f"| {name} | {row['batch']} | cannot run: {row['trouble']} |"
    low, middle, high = (1e3 * q / row["batch"] for q in quartiles(row["seconds"]))
    ratios = [f"{rate(row) / rate(peer):.3g}x" if peer else "-" for peer in peers.values()]
    cells = [name, row["batch"], f"{middle:.4g}, {low:.4g} to {high:.4g}", f"{rate(row):.3g}"]
    cells += ratios
    if sampling:
        cells.append(f"{row['whole']:.3g}" if "whole" in row else "-")
    cells += [f"{row['memory'] / 2**20:.0f}", f"{row['cold_start']:.0f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def quartiles(seconds: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    if len(seconds) == 1:
        return seconds * 3
    return statistics.quantiles(seconds, n=4, method="inclusive")


def quality(found: dict[str, Any]) -> list[str]:
    """Section on the quality of each net after training for the same wall-clock time."""
    names = list(found["rows"][0]["figures"])
    lines = [
        f"## After {found['minutes']:g} minutes of training each",
        "",
        f"`--quality {found['minutes']:g}`: the recipe's schedule, objective, timesteps, data and "
        f"solver around both nets; {found['samples']} samples judged by `ddiff.evaluate`, brackets",
        "are 95% intervals over samples (docs/evaluation.md).",
        "",
        "| | batch | steps | minutes, validation and pictures included | validation loss "
        f"| {' | '.join(names)} |",
        "|---|---|---|---|---|" + "---|" * len(names),
    ]
    for row in found["rows"]:
        figures = " | ".join(figure(*row["figures"][name]) for name in names)
        lines.append(
            f"| {row['name']} | {row['batch']} | {row['steps']} | {row['seconds'] / 60:.1f} "
            f"| {row['val_loss']:.4f} | {figures} |"
        )
    return [*lines, ""]


def figure(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3g}" if low is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"

"""results.json -> README.md and levers.png. `python report.py` writes them anew."""

import json
import statistics
from pathlib import Path
from typing import Any

from rows import CAPS

GB = 1e9


def written(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    where = results["environment"]
    lines = [
        "# What each lever of memory saves and costs",
        "",
        "*How small can training at 64^3 and at 128^3 be, and what does it cost?* Written by",
        f"`python experiments/memory_levers/measure.py` on {where['device_name']},",
        f"{where['threads']} threads; interleaved steps, {results['rounds']} of each.",
        "",
        "Predicted: what `memory_budget_gb` says before the start (GB are 1e9 bytes). Counted: the",
        "tensors alive in two real steps (on a GPU: the allocator's peak). Process: the most its",
        "resident memory was, and how much of that it had before the first step: Python and torch,",
        "weights twice, data. Time: of a whole step a volume, against the first row that ran.",
        "",
    ]
    for size in sorted({row["size"] for row in results["rows"]}):
        rows = [row for row in results["rows"] if row["size"] == size]
        lines += [f"## {size}^3", "", *table(rows, CAPS[size]), ""]
    lines += ["![memory and time](levers.png)", ""]
    (folder / "README.md").write_text("\n".join(lines))
    picture(results["rows"], folder / "levers.png")


def table(rows: list[dict[str, Any]], cap: float) -> list[str]:
    first = next((seconds for row in rows if (seconds := cost(row))), None)
    lines = [
        f"| setting | predicted GB | counted GB | off by | process GB | under {cap:g} GB | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        predicted, counted = row["predicted"], row.get("counted")
        seconds = cost(row)
        cells = [
            row["name"],
            f"{predicted / GB:.3f}",
            f"{counted / GB:.3f}" if counted else row.get("failed", "not run"),
            f"{100 * (predicted / counted - 1):+.1f}%" if counted else "",
            process(row),
            "yes" if row.get("under_the_cap", predicted < cap * GB) else "no",
            f"{seconds / first:.2f}" if seconds and first else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def process(row: dict[str, Any]) -> str:
    if "resident" in row:
        return f"{row['resident'] / GB:.2f} ({row['resident_before'] / GB:.2f})"
    return f"{row['reserved'] / GB:.2f} reserved" if "reserved" in row else ""


def cost(row: dict[str, Any]) -> float | None:
    """Seconds a volume."""
    if not row.get("seconds"):
        return None
    batch = {"budget.batch_size": 1, "trainer.accumulate_grad_batches": 1}
    for word in row["options"]:
        name, value = word.split("=")
        if name in batch:
            batch[name] = int(value)
    volumes = batch["budget.batch_size"] * batch["trainer.accumulate_grad_batches"]
    return statistics.median(row["seconds"]) / volumes


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    sizes = sorted({row["size"] for row in rows})
    figure = Figure(figsize=(8 * len(sizes), 5.5), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        axes.axvline(CAPS[size], color="0.7", linestyle="--")
        for row in rows:
            seconds = cost(row)
            if row["size"] == size and seconds:
                (x, y) = row["predicted"] / GB, seconds
                axes.plot(x, y, "o", color="tab:blue")
                axes.annotate(row["name"], (x, y), fontsize=6, xytext=(3, 3),
                              textcoords="offset points")  # fmt: skip
        axes.margins(x=0.25)
        axes.set(title=f"{size}^3", xlabel="GB", ylabel="seconds a volume", xscale="log",
                 yscale="log")  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    written(Path(__file__).parent)

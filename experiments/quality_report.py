"""The tables and the picture of experiments/quality.py."""

import textwrap
from pathlib import Path
from typing import Any


def write(name: str, results: dict[str, Any], out: Path) -> None:
    """README.md and study.png; verdict.md, written by a person, is taken into the README."""
    verdict, where = out / "verdict.md", results["machine"]
    draw(results, out / "study.png")
    lines = [
        f"# {name}",
        "",
        f"*{results['question']}*",
        "",
        textwrap.fill(
            f"Written by `python experiments/quality.py {name}` on {where['device_name']}, "
            f"threads: {where['threads']}, torch {where['packages']['torch']}, "
            f"{where['precision']}. "
            "One training each; brackets are 95% intervals over samples (docs/evaluation.md).",
            100,
        ),
        "",
        verdict.read_text() if verdict.exists() else "",
        "![the study](study.png)",
        "",
        *table(results),
        "",
        "## Protocols",
        "",
        *protocols(results),
        "",
        "## Training",
        "",
        "| run | options | steps | minutes | validation loss |",
        "|---|---|---|---|---|",
    ]
    for run, facts in results["training"].items():
        lines.append(
            f"| {run} | `{' '.join(facts['options'])}` | {facts['step']} "
            f"| {facts['seconds'] / 60:.1f} | {facts['val/loss']:.4f} |"
        )
    if results["classifier"]:
        c = results["classifier"]
        lines += [
            "",
            f"The classifier reads {c['accuracy']:.2%} of the held-out {c['name']} right.",
        ]
    for run, found in results["over_training"].items():
        lines += ["", f"## {run}, while it was trained", "", *over_training(found)]
    pictures = sorted(p.name for p in out.glob("*.png") if p.name != "study.png")
    lines += ["", *(f"![samples]({p})" for p in pictures), ""]
    (out / "README.md").write_text("\n".join(lines))


def figures(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f["name"]: f for f in row["figures"]}


def cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    text = f"{figure['value']:.3g}"
    return text if figure["low"] is None else f"{text} [{figure['low']:.3g}, {figure['high']:.3g}]"


def table(results: dict[str, Any]) -> list[str]:
    rows = results["rows"]
    labels = list(rows[0]["label"])
    names = list(dict.fromkeys(f["name"] for row in rows for f in row["figures"]))
    lines = [
        f"| {' | '.join(labels + names)} | evaluations a sample |",
        "|---" * (len(labels) + len(names) + 1) + "|",
    ]
    for row in rows:
        found = figures(row)
        cells = [str(row["label"][name]) for name in labels] + [cell(found.get(n)) for n in names]
        lines.append(f"| {' | '.join(cells)} | {row['sampling']['evaluations']} |")
    return lines


def protocols(results: dict[str, Any]) -> list[str]:
    """One line for figures that share a protocol; a figure with two has two lines."""
    found: dict[str, list[str]] = {}
    for row in results["rows"]:
        for f in row["figures"]:
            how = ", ".join(f"{k} {v}" for k, v in {"n": f["n"], **f["protocol"]}.items())
            names = found.setdefault(how, [])
            if f["name"] not in names:
                names.append(f["name"])
    lines = (f"- {', '.join(names)}: {how}" for how, names in found.items())
    return [textwrap.fill(line, 100, subsequent_indent="  ") for line in lines]


def over_training(found: list[dict[str, Any]]) -> list[str]:
    names = [f["name"] for f in found[0]["figures"]]
    lines = [f"| steps | images seen | minutes | {' | '.join(names)} |"]
    lines.append("|---" * (3 + len(names)) + "|")
    for at in found:
        values = figures(at)
        cells = " | ".join(cell(values.get(name)) for name in names)
        lines.append(
            f"| {at['step']} | {at['images_seen']} | {at['train_seconds'] / 60:.1f} | {cells} |"
        )
    return lines


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, x = results["drawn"], results["x"]
    fig, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3.2), layout="constrained")
    series: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        rest = [str(v) for k, v in row["label"].items() if k != x]
        series.setdefault(" ".join(rest), []).append(row)
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name.replace("_", " "))
        for label, rows in series.items():
            rows = sorted(rows, key=lambda row: row["label"][x] if x else 0)
            points = [figures(row).get(name) for row in rows]
            places = [row["label"][x] if x else label for row in rows]
            kept = [(p, f) for p, f in zip(places, points, strict=True) if f]
            values = [f["value"] for _, f in kept]
            reach = [
                [f["value"] - (f["low"] if f["low"] is not None else f["value"]) for _, f in kept],
                [
                    (f["high"] if f["high"] is not None else f["value"]) - f["value"]
                    for _, f in kept
                ],
            ]
            reach = [[max(0.0, r) for r in side] for side in reach]
            ax.errorbar([p for p, _ in kept], values, reach, fmt="o-", ms=4, capsize=2, label=label)
        if x:
            ax.set_xlabel(x)
            ax.set_xscale("symlog", linthresh=0.25) if x == "guidance" else ax.set_xscale("log")
        else:
            ax.tick_params(axis="x", rotation=75)
        ax.spines[["top", "right"]].set_visible(False)
    if x and len(series) > 1:
        axes[0].legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)

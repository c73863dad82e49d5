"""The tables and the picture of experiments/timesteps.py."""

import statistics
from pathlib import Path

from ddiff.pages.plotting import new_figure

UNBIASED = ("uniform", "stratified", "loss_second_moment", "stratified_importance",
            "online_topk corrected")  # fmt: skip
MEASURES = {  # name of a column: what to call it, how to print it
    "valid": ("valid spheres", "{:.0%}"),
    "KS distance of radii": ("distance of the radius law", "{:.2f}"),
    "read as asked": ("read as asked", "{:.0%}"),
}


def write(study: str, results: dict, out: Path) -> None:
    """README.md and study.png; verdict.md, written by a person, is taken into the README."""
    draw(results, out / "study.png")
    verdict = out / "verdict.md"
    where = results["machine"]
    lines = [
        f"# Timesteps: {results['about']}",
        "",
        "*What does each way of choosing timesteps buy, at equal steps and equal wall-clock, and",
        "what does it cost?*",
        "",
        f"Written by `python experiments/timesteps.py {study}` on {where['device_name']}, torch "
        f"{where['packages']['torch']}: {results['steps']} steps of uniform, {results['seeds']} "
        "seeds, the averaged weights judged on the same noise for all. Mean and standard deviation "
        "over seeds; differences are paired by seed.",
        "",
        verdict.read_text() if verdict.exists() else "",
        "![the study](study.png)",
        "",
        "## At equal steps",
        "",
        *table(results, "steps"),
    ]
    if any(row["equal"] == "time" for row in results["rows"]):
        spent = ", ".join(
            f"`{name}` {steps} steps"
            + ("" if steps < 0.9 * results["steps"] else ", which leaves nothing to train")
            for name, steps in results["spent"].items()
        )
        lines += ["", "## At equal wall-clock", ""]
        lines += ["Those that cost nothing are above. What the others spent on scores, in steps of "
                  f"uniform, is taken from their training: {spent}.", ""]  # fmt: skip
        lines += table(results, "time")
    lines += ["", "## Validation loss by tenth of t / T, against uniform", "", *tenths(results)]
    lines += ["", "## What a step costs", "", *costs(results), ""]
    (out / "README.md").write_text("\n".join(lines))


def rows_of(results: dict, method: str, equal: str = "steps") -> list[dict]:
    return [r for r in results["rows"] if r["method"] == method and r["equal"] == equal]


def methods(results: dict, equal: str = "steps") -> list[str]:
    return list(dict.fromkeys(r["method"] for r in results["rows"] if r["equal"] == equal))


def spread(values: list[float], form: str = "{:.4f}") -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{form.format(statistics.fmean(values))} ± {form.format(deviation)}"


def against_uniform(results: dict, rows: list[dict]) -> list[float]:
    base = {r["seed"]: r["validation loss"] for r in rows_of(results, "uniform")}
    return [r["validation loss"] / base[r["seed"]] - 1 for r in rows]


def table(results: dict, equal: str) -> list[str]:
    first = results["rows"][0]
    measures = {k: v for k, v in MEASURES.items() if k in first}
    head = ["method", "", "steps", "validation loss", "against uniform"]
    head += [title for title, _ in measures.values()] + ["peak memory, MB"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    names = methods(results, equal)
    for name in names if equal == "steps" else ["uniform", *names]:
        rows = rows_of(results, name, "steps" if name == "uniform" else equal)
        cells = [f"`{name}`", "unbiased" if name in UNBIASED else "changes the objective"]
        cells += [str(rows[0]["steps"]), spread([r["validation loss"] for r in rows], "{:.5f}")]
        cells += [spread(against_uniform(results, rows), "{:+.1%}").replace("± +", "± ")]
        cells += [spread([r[k] for r in rows], form) for k, (_, form) in measures.items()]
        cells += [f"{statistics.fmean(r['peak memory, MB'] for r in rows):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_tenth(results: dict, method: str) -> list[float]:
    """Mean over seeds of the loss in every tenth, relative to uniform's of that seed."""
    base = {r["seed"]: r["by tenth of t"] for r in rows_of(results, "uniform")}
    rows = rows_of(results, method)
    return [
        statistics.fmean(r["by tenth of t"][i] / base[r["seed"]][i] - 1 for r in rows)
        for i in range(10)
    ]


def tenths(results: dict) -> list[str]:
    names = [f"{i / 10:.1f}-{(i + 1) / 10:.1f}" for i in range(10)]
    lines = [f"| method | {' | '.join(names)} |", "|---" * 11 + "|"]
    uniform = rows_of(results, "uniform")
    means = [statistics.fmean(r["by tenth of t"][i] for r in uniform) for i in range(10)]
    lines.append(f"| uniform's loss | {' | '.join(f'{m:.4f}' for m in means)} |")
    for name in methods(results)[1:]:
        lines.append(f"| `{name}` | {' | '.join(f'{d:+.1%}' for d in by_tenth(results, name))} |")
    return lines


def costs(results: dict) -> list[str]:
    base = results["step times"]["uniform"][1]
    lines = ["| method | median ms | quartiles | against uniform |", "|---|---|---|---|"]
    for name, (low, middle, high) in results["step times"].items():
        note = " (scores in each step)" if "exact" in name else ""
        lines.append(
            f"| `{name}`{note} | {middle * 1e3:.1f} | {low * 1e3:.1f} to {high * 1e3:.1f} "
            f"| {middle / base - 1:+.1%} |"
        )
    return lines


def draw(results: dict, path: Path) -> None:
    """Loss against uniform with every seed; by timestep; the laws; quality."""
    names = methods(results)
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    figure = new_figure(13, 8.5, layout="constrained")
    (bars, bins), (laws, quality) = figure.subplots(2, 2)
    for i, name in enumerate(names):
        change = [100 * c for c in against_uniform(results, rows_of(results, name))]
        bars.barh(i, statistics.fmean(change), color=colours[name], alpha=0.5)
        bars.plot(change, [i] * len(change), "o", color=colours[name], ms=4)
        paid = [100 * c for c in against_uniform(results, rows_of(results, name, "time"))]
        bars.plot(paid, [i + 0.25] * len(paid), "x", color="black", ms=5)
        if name != "uniform":
            changes = [100 * d for d in by_tenth(results, name)]
            bins.plot(changes, marker="o", ms=3, color=colours[name],
                      ls="-" if name in UNBIASED else "--")  # fmt: skip
        law = [len(results["laws"][name]) * p for p in results["laws"][name]]
        centres = [(j + 0.5) / len(law) for j in range(len(law))]
        laws.step(centres, law, where="mid", color=colours[name], label=name,
                  ls="-" if name in UNBIASED else "--")  # fmt: skip
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlim(-8, 16)
    bars.axvline(0, color="black", lw=0.8)
    bars.set(
        title="validation loss against uniform, % (a dot a seed; x equal wall-clock, cut at 16)"
    )
    bins.axhline(0, color="black", lw=0.8)
    bins.set(title="by tenth of t / T, % (dashed: changes the objective)", xlabel="tenth of t / T")
    bins.set_yscale("symlog", linthresh=5)
    bins.set_yticks(ticks := [-20, -10, -5, -2, 0, 2, 5, 10, 20], map(str, ticks))
    figure.legend(*laws.get_legend_handles_labels(), loc="outside lower center", ncol=5)
    laws.set(title="p(t) at the end, 1 = uniform", xlabel="t / T", ylim=(0, None))
    measure = next(k for k in ("valid", "read as asked") if k in results["rows"][0])
    for i, name in enumerate(names):
        values = [100 * r[measure] for r in rows_of(results, name)]
        quality.barh(i, statistics.fmean(values), color=colours[name], alpha=0.5)
        quality.plot(values, [i] * len(values), "o", color=colours[name], ms=4)
    quality.set_yticks(range(len(names)), names)
    quality.invert_yaxis()
    quality.set(title=f"{MEASURES[measure][0]}, % of 100 samples", xlim=(0, 105))
    figure.suptitle(f"{results['about']}: {results['steps']} steps, {results['seeds']} seeds")
    figure.savefig(path, dpi=80)


def write_overhead(times: dict[str, dict[str, list[float]]], where: dict, out: Path) -> None:
    lines = [
        "# What choosing timesteps costs",
        "",
        f"Written by `python experiments/timesteps.py overhead` on {where['device_name']}, torch "
        f"{where['packages']['torch']}: all samplers take turns in one training, a step each. The "
        "ratio to uniform is taken within every round; median and its standard error (from "
        "the quartiles).",
        "",
    ]
    for title, found in times.items():
        base = found["uniform"]
        lines += [f"## {title}", "", "| method | median ms | against uniform |", "|---|---|---|"]
        for name, values in found.items():
            ratios = [v / b - 1 for v, b in zip(values, base, strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            error = 1.25 * (high - low) / 1.349 / len(ratios) ** 0.5
            lines.append(
                f"| `{name}` | {statistics.median(values) * 1e3:.1f} "
                f"| {statistics.median(ratios):+.2%} ± {error:.2%} |"
            )
        lines.append("")
    (out / "README.md").write_text("\n".join(lines))

"""Results of a study: verdicts, tables and pictures."""

import shlex
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ddiff.pages.plotting import GREY, colour, new_figure, styled
from ddiff.pages.report.comparison import Comparison, Preface, compare
from ddiff.pages.report.page import found_samples, write_report
from ddiff.pages.report.plots import draw, strips
from ddiff.pages.report.text import number
from ddiff.pages.view import reading
from ddiff.pages.view.pictures import save_png
from ddiff.pages.view.reading import Found
from ddiff.study.figures import LOSSES, OF_TRAINING, known_better
from ddiff.study.hindsight import Hindsight
from ddiff.study.plan import slug
from ddiff.study.results import Results, Row, Seeds, read
from ddiff.study.statistics import Difference, interval
from ddiff.system.console import console, duration, show_table
from ddiff.system.errors import DdiffError
from ddiff.system.files import read_json, replacing, write_json

PLACES = ("own", "search")  # of this machine, which are not published; `search` by earlier versions


def percent(value: float) -> str:
    return f"{100 * value:+.2g}%" if abs(value) < 0.1 else f"{100 * value:+.0f}%"


def amount(value: float, relative: bool) -> str:
    """A difference without its sign."""
    return percent(value).lstrip("+-") if relative else number(abs(value))


def apart(found: Difference | None) -> str:
    """A difference and its interval: `-2.1% [-3%, -1.2%]`."""
    if found is None:
        return ""
    said = [percent(v) if found.relative else f"{v:+.3g}" for v in (found.mean, found.low or 0)]
    if found.low is None or found.high is None:
        return said[0]
    high = percent(found.high) if found.relative else f"{found.high:+.3g}"
    return f"{said[0]} [{said[1]}, {high}]"


def verdict(results: Results, row: Row) -> str:
    """The verdict on a variant, in words."""
    if not row.step:
        why = [row.refused] if row.refused else list(dict.fromkeys(row.failures.values()))
        return f"failed: {'; '.join(why)}" if why else "nothing was measured yet"
    if row is results.first:
        return "what the others are compared with"
    found = row.differences.get(results.decide)
    if found is None:
        return "no seed in common with the first"
    said, where = found.verdict(results.mark["better"]), _where(results, row)
    if said == "too few seeds":
        return f"{apart(found)}: one seed says nothing{where}"
    if said != "no difference seen":
        return f"**{said}**: {apart(found)}{where}"
    if found.most == 0:
        return f"the same figure with every seed{where}"
    text = f"no difference larger than {amount(found.most or 0, found.relative)} was seen"
    seeds = found.seeds_to_show
    return text + where + (f"; {seeds:,} seeds would show 1%" if seeds else "")


def _where(results: Results, row: Row) -> str:
    """The step of a comparison that is not of the ends of both trainings."""
    if row.compared_at == row.steps:
        return ""
    who = "it" if row.step == row.compared_at else results.first.name
    return f", at step {row.compared_at} of {row.steps}, where {who} was paused"


def cautions(results: Results) -> list[str]:
    """Cautions that a reader must know before believing the verdicts."""
    found = []
    done, every = results.done, len(results.trials)
    if done < every:
        found.append(f"{done} of {every} runs are finished; the same command runs the others.")
    losses = {t["name"]: t["loss"] for t in results.mark["trainings"]}
    of = {v["name"]: losses[v["training"]] for v in results.mark["variants"]}
    others = [row.name for row in results.rows if of[row.name] != of[results.first.name]]
    if others and results.decide in LOSSES:
        found.append(
            f"{results.decide} is averaged over noise levels that the schedule and the objective "
            f"set: for {', '.join(others)} it is not the same quantity as for "
            f"{results.first.name}. decide=fid compares what is drawn."
        )
    for row in results.rows:
        if row.step:
            found += [f"{row.name}, seed {s}: {why}" for s, why in row.failures.items()]
    if results.mark["race"] and any(row.paused for row in results.rows):
        found.append(
            "The variants that were paused are compared where they stopped. The seeds that chose "
            "the others also judge them, which flatters the best by a part of the spread."
        )
    return found


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    measure = results.mark["measure"]
    header = ["variant", "seeds", "steps", *measure, f"{results.decide} against the first"]
    header += [f"{name}, the same" for name in measure if name != results.decide]
    header += ["ms a step", "verdict"]
    drawn = any(name not in OF_TRAINING for name in measure)
    if drawn or results.mark["equal"] == "evaluations":
        header.insert(3, "evaluations a sample")
    rows = []
    for row in results.rows:
        seeds = row.figures.get(results.decide, {})
        steps = str(row.step) if row.step in (0, row.steps) else f"{row.step} of {row.steps}"
        cells = [row.name, str(len(seeds)), steps]
        if "evaluations a sample" in header:
            cells.append(str(row.evaluations or "-"))
        cells += [_mean(row.figures.get(name, {})) for name in measure]
        order = [results.decide, *(name for name in measure if name != results.decide)]
        cells += [apart(row.differences.get(name)) for name in order]
        cells.append("-" if row.step_seconds is None else f"{1e3 * row.step_seconds:.3g}")
        rows.append([*cells, verdict(results, row)])
    return header, rows


def _mean(values: Seeds) -> str:
    if not values:
        return "-"
    mean, half = interval(list(values.values()))
    return number(mean) if half is None else f"{number(mean)} ± {half:.2g}"


def headline(results: Results) -> str:
    """The answer in a sentence or two."""
    text = _against_first(results)
    if results.mark["race"]:
        alive = [row for row in results.rows if row.step and not row.paused]
        sign = 1 if results.mark["better"] == "lower" else -1
        means = {r.name: sign * interval([*r.figures[results.decide].values()])[0] for r in alive}
        if len(alive) < len(results.rows) and means:
            text = f"The race went to {min(means, key=means.__getitem__)}. {text}"
    return text


def _against_first(results: Results) -> str:
    found = {row.name: row.differences.get(results.decide) for row in results.rows[1:]}
    better = results.mark["better"]
    by: dict[str, list[str]] = {"better": [], "worse": []}
    for name, one in found.items():
        if one is not None and one.verdict(better) in by:
            by[one.verdict(better)].append(f"{name} ({apart(one)})")
    first = results.first.name
    parts = [f"{word} than {first}: {', '.join(names)}" for word, names in by.items() if names]
    if parts:
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."
    seen = [one.most for one in found.values() if one is not None and one.most is not None]
    if not seen:
        return "Nothing can be said yet."
    relative = all(one.relative for one in found.values() if one is not None)
    return f"No variant was seen to differ from {first} by more than {amount(max(seen), relative)}."


def protocol(results: Results) -> str:
    mark = results.mark
    equal = {
        "time": f"{duration(mark['budget'])} of training each, by steps that were timed in turns; "
        "compiling, building and scoring are charged, validation and samples are not",
        "steps": f"{mark['budget']:g} steps of training each",
        "samples": f"{mark['budget']:,.0f} samples of training each",
        "evaluations": f"{mark['budget']:g} evaluations of the net for each sample",
    }[mark["equal"]]
    wrong = 100 * (1 - mark["confidence"])
    return (
        f"{equal}. {len(mark['seeds'])} seeds, paired: a seed has the same data, order, weights "
        f"and noise in every variant where that is possible. ± and brackets are Student's "
        f"intervals; those against the first hold together: of variants that are the same, at most "
        f"{wrong:g} of 100 such studies call any different. Only {results.decide} was decided by."
    )


def races_in_words(found: Sequence[Hindsight]) -> list[str]:
    """A table in Markdown of the races that the study could have been."""
    if not found:
        return []
    head = (
        "| rungs | goes on | steps | named the winner of the full study | its choice was worse by |"
    )
    rows = [
        f"| {', '.join(f'{rung:.0%}' for rung in one.rungs)} | {one.share:.0%} | {one.work:.0%} "
        f"| {one.right} of {one.races} | {one.regret:.1%} |"
        for one in found
    ]
    return [
        _folded(
            "Had it been a race: with every set of two or more of its seeds, by the validations on "
            "the way."
        ),
        "\n".join([head, "|---|---|---|---|---|", *rows]),
    ]


def named(comparison: Comparison, folder: Path) -> Comparison:
    """The comparison with the study's names: each group is called as the folder of its runs."""
    groups = []
    for group in comparison.groups:
        names = {run.path.parent.name for run in group.runs if run.path.parent.parent == folder}
        groups.append(replace(group, label=names.pop()) if len(names) == 1 else group)
    return replace(comparison, groups=groups)


def preface(results: Results) -> Preface:
    return Preface(
        title=f"Verdicts by {results.decide}",
        lines=[headline(results), *cautions(results), protocol(results)],
        table=table(results),
    )


def show(results: Results) -> None:
    """The verdicts on the terminal."""
    header, rows = table(results)
    short = [i for i, name in enumerate(header) if not name.endswith(", the same")]
    plain = [[row[i].replace("**", "") for i in short] for row in rows]
    show_table([header[i] for i in short], plain, results.mark["name"], left=(0, len(short) - 1))
    console.print(headline(results), markup=False)
    for line in cautions(results):
        console.print(f"note        {line}", markup=False)


def markdown(
    results: Results, command: str, pictures: Sequence[Path], races: Sequence[Hindsight]
) -> str:
    """The study as it stands in a README."""
    environments = [e for t in results.trials if (e := read_json(t.folder / "environment.json"))]
    environment = environments[0] if environments else {}
    precisions = dict.fromkeys(e.get("precision", "?") for e in environments)
    header, rows = table(results)
    lines = [header, ["---"] * len(header), *rows]
    body = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    packages = environment.get("packages", {})
    where = (
        f"{environment.get('device_name', 'an unknown device')}, "
        f"{environment.get('threads', '?')} threads a run, torch {packages.get('torch', '?')}, "
        f"{' and '.join(precisions) or '?'}"
    )
    said = [f"- {row.name}: `{row.options}`" for row in results.rows if row.options]
    first = results.mark["variants"][0]
    words = [*results.mark["trainings"][0]["words"], *first["drawing"]]
    shared = shlex.join(word for word in words if word not in first["said"])
    parts = [
        f"# {results.mark['name']}",
        _folded(f"**{headline(results)}**"),
        *(_folded(line) for line in cautions(results)),
        "\n".join(body),
        _folded(protocol(results)),
        *(f"![{path.stem}]({path.relative_to(results.folder)})" for path in pictures),
        *races_in_words(races),
        _folded(f"Written on {where}, by"),
        f"```\n{command}\n```",
        f"All variants: `{shared}`.",
        "\n".join(said),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _folded(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def picture(results: Results, path: Path) -> None:
    """Every seed's difference from the first variant, and the interval, a panel for a figure."""
    rows = [row for row in results.rows[1:] if row.differences]
    names = [n for n in results.mark["measure"] if any(r.differences.get(n) for r in rows)][:4]
    if not rows or not names:
        return
    figure = new_figure(2 + 3.4 * len(names), 1.2 + 0.34 * len(rows), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        relative = all(d.relative for r in rows if (d := r.differences.get(name)))
        scale = 100 if relative else 1
        for i, row in enumerate(rows):
            found = row.differences.get(name)
            if found is None:
                continue
            hue = colour(i + 1)
            if found.low is not None and found.high is not None:
                panel.plot([scale * found.low, scale * found.high], [i, i], color=hue, lw=5,
                           alpha=0.3, solid_capstyle="butt")  # fmt: skip
            panel.plot(scale * found.mean, i, "D", color=hue, ms=5)
            values = [scale * value for value in found.each]
            panel.plot(values, [i] * len(values), ".", color=hue, ms=5, alpha=0.8)
        panel.axvline(0, color=GREY, lw=1)
        styled(panel, "")
        better = known_better(name)
        title = f"{name} ({better} is better)" if better else name
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlabel(f"against {results.first.name}{', %' if relative else ''}", fontsize=8)
    panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
    panels[0].invert_yaxis()
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def front(results: Results, path: Path) -> None:
    """The figure that decides over the evaluations for a sample: a line for each training and way
    of drawing, whose numbers of steps differ.

    Nothing is drawn where all variants take the same number.
    """
    lines: dict[tuple[str, ...], list[Row]] = {}
    for variant, row in zip(results.mark["variants"], results.rows, strict=True):
        if row.evaluations and row.figures.get(results.decide):
            way = [word for word in variant["drawing"] if ".num_steps=" not in word]
            lines.setdefault((variant["training"], *way), []).append(row)
    counts = sorted({row.evaluations or 0 for rows in lines.values() for row in rows})
    if len(counts) < 2:
        return
    figure = new_figure(6.4, 3.6, layout="constrained")
    panel = figure.subplots()
    for group, rows in enumerate(lines.values()):
        rows.sort(key=lambda row: row.evaluations or 0)
        found = [interval([*row.figures[results.decide].values()]) for row in rows]
        at, means = [row.evaluations for row in rows], [mean for mean, _ in found]
        halves = [half or 0.0 for _, half in found]
        panel.errorbar(at, means, halves, color=colour(group), marker="o", ms=5, lw=1.4, capsize=3)
        for row, x, y in zip(rows, at, means, strict=True):
            panel.annotate(row.name, (x, y), (5, 5), textcoords="offset points", fontsize=8,
                           color=colour(group))  # fmt: skip
    panel.set_xscale("log")
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.minorticks_off()
    panel.margins(x=0.12, y=0.12)
    panel.set_xlabel("evaluations of the net for a sample", fontsize=9)
    better = known_better(results.decide)
    styled(panel, f"{results.decide} ({better} is better)" if better else results.decide)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def samples_of(results: Results) -> list[tuple[str, Found]]:
    """Samples of each variant that draws some, of its first seed, below what the first is given."""
    found = []
    for row in results.rows:
        name = f"{slug(row.name)}_{row.step:06d}.npy"
        paths = (trial.folder / "figures" / name for trial in results.trials)
        if path := next((path for path in paths if path.is_file()), None):
            beside = {"held out": path.with_suffix(".truth.npy"),
                      "what is known": path.with_suffix(".known.npy")}  # fmt: skip
            rows = {**(beside if not found else {}), row.name: path}
            found += [(label, reading.read(one, value_range="signed"))
                      for label, one in rows.items() if one.is_file()]  # fmt: skip
    return found


def plain(results: Results) -> dict[str, Any]:
    """The study as JSON: what is needed to write it again without its runs."""
    rows = []
    for row in results.rows:
        one = asdict(row)
        one["verdict"] = verdict(results, row).replace("**", "")
        one["differences"] = {
            name: d and {**asdict(d), "seeds": d.seeds, "detectable": d.detectable}
            for name, d in row.differences.items()
        }
        rows.append(one)
    mark = {name: value for name, value in results.mark.items() if name not in PLACES}
    return {**mark, "headline": headline(results), "rows": rows}


def write(folder: Path, command: str, publish: str | None = None) -> Results:
    """Write README.md, results.json, the pictures and the page, and show the verdicts.

    `publish`: a folder that gets a copy of all but the page.
    """
    results = read(folder)
    show(results)
    files = folder / "report_files"
    files.mkdir(exist_ok=True)
    pictures = []
    for made, name in ((front, "front.png"), (picture, "study.png")):
        path = files / name
        path.unlink(missing_ok=True)
        made(results, path)
        pictures += [path] if path.is_file() else []
    page = folder / "report.html"
    try:
        comparison = compare(results.runs, results.mark["name"])
        comparison = named(comparison, folder).led_by(preface(results))
        samples = found_samples(comparison, 16)
        variants = samples_of(results)  # in place of a row for each training
        drawn = draw(comparison, () if variants else samples, files)
        if variants:
            drawn.append(save_png(strips(variants), files / "samples.png"))
        pictures += [path for path in drawn if path.name in ("curves.png", "samples.png")]
        write_report(comparison, samples, page)
    except DdiffError as error:  # no run has written anything yet
        console.print(f"note        no page: {error}", markup=False)
    races = results.as_races()
    hindsights = {"as_races": [asdict(one) for one in races]}
    write_json(folder / "results.json", plain(results) | hindsights)
    with replacing(folder / "README.md", "w") as file:
        file.write(markdown(results, command, pictures, races))
    for name, path in (("text", folder / "README.md"), ("page", page)):
        if path.is_file():
            console.print(f"{name:<12}{path}")
    if publish:
        copies = [folder / "README.md", folder / "results.json", *pictures]
        for path in copies:
            place = Path(publish) / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        console.print(f"published   {publish}")
    return results

"""The comparison on the terminal."""

import textwrap
from collections.abc import Sequence

from rich.text import Text

from ddiff.benchmarking.contest import Contest, Row
from ddiff.system.console import console, show_table

Cells = list[str]


def print_table(contest: Contest, rows: Sequence[Row]) -> None:
    """A line for each row, and below them why some could not run."""
    header, lines = table(rows)
    console.print()
    styles = ["" if _ran(row) else "yellow" for row in rows]
    show_table(header, lines, contest.title, left=(0, 1), styles=styles)
    for line in troubles(rows):
        console.print(Text(line, "yellow"))


def table(rows: Sequence[Row]) -> tuple[Cells, list[Cells]]:
    """The names of the columns, and their cells; columns without a figure are left out."""
    figures = {name: row.fidelity[name] for row in rows for name in row.fidelity}
    memory = any(row.outcome.memory for row in rows)
    graphs = any(row.outcome.graphs for row in rows)
    header = ["backend", "precision", "ms/sample", "quartiles", "samples/s", "speed-up",
              "cold start", *["graphs"] * graphs, *["memory"] * memory,
              *(FIGURES[name][0] for name in figures)]  # fmt: skip
    lines = [
        [
            *_measured(row),
            *[_graphs(row)] * graphs,
            *[_memory(row)] * memory,
            *(FIGURES[name][1](row) for name in figures),
        ]
        if _ran(row)
        else [row.backend, row.precision, "cannot run", *["-"] * (len(header) - 3)]
        for row in rows
    ]
    return header, lines


def troubles(rows: Sequence[Row]) -> list[str]:
    """A line for each reason why rows cannot run, with those that it stops."""
    stopped: dict[str, list[str]] = {}
    for row in rows:
        if not _ran(row):
            why = textwrap.shorten(row.outcome.trouble or "", 240)
            stopped.setdefault(why, []).append(f"{row.backend} {row.precision}")
    return [f"cannot run  {', '.join(names)}: {why}" for why, names in stopped.items()]


def milliseconds(seconds: float) -> str:
    return three_digits(1000 * seconds)


def three_digits(value: float) -> str:
    """That count, or all before the point."""
    decimals = next((d for d in range(4) if value >= 10 ** (2 - d)), 4)
    return f"{value:.{decimals}f}"


def megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count < 2**30 else f"{count / 2**30:.2f} GB"


def _measured(row: Row) -> Cells:
    low, middle, high = map(milliseconds, row.per_sample)
    return [
        row.backend,
        row.precision,
        middle,
        f"{low} to {high}",
        three_digits(row.rate),
        f"{row.ratio:.2f}x",
        f"{row.cold_start:.1f} s",
    ]


def _graphs(row: Row) -> str:
    """Those of the first batch, and how many more there were later."""
    outcome = row.outcome
    return f"{outcome.graphs or '-'}" + (f" +{outcome.recompiles}" if outcome.recompiles else "")


def _memory(row: Row) -> str:
    memory = row.outcome.memory
    return megabytes(next(iter(memory.values()))) if memory else "-"


def psnr_words(row: Row) -> str:
    if not row.fidelity:
        return "-"
    psnr = row.fidelity["psnr"]
    return "exact" if psnr is None else f"{psnr:.1f} dB"


def _max_error(row: Row) -> str:
    return f"{row.fidelity['max_error']:.1e}" if row.fidelity else "-"


def _loss(row: Row) -> str:
    return f"{row.fidelity['loss']:.5g}"


def _loss_difference(row: Row) -> str:
    return f"{row.fidelity['loss_difference']:.1e}"


FIGURES = {  # of fidelity: what stands over the column, and in it
    "psnr": ("PSNR", psnr_words),
    "max_error": ("max error", _max_error),
    "loss": ("loss", _loss),
    "loss_difference": ("off by", _loss_difference),
}


def _ran(row: Row) -> bool:
    return row.outcome.trouble is None

"""The comparison on the terminal."""

import textwrap
from collections.abc import Sequence

from rich.text import Text

from ddiff.benchmarking.contest import Contest, Row
from ddiff.system.console import console

LEFT = 2  # columns of words; the others are numbers
Cells = list[str]


def print_table(contest: Contest, rows: Sequence[Row]) -> None:
    """A line for each row; one that could not run says why instead."""
    header, lines = table(rows)
    shown = [header, *(cells for row, cells in zip(rows, lines, strict=True) if _ran(row))]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for i in range(LEFT):
        widths[i] = max(len(cells[i]) for cells in (header, *lines))
    console.print()
    console.print(Text(contest.title, "bold"))
    console.print(Text(_aligned(header, widths), "dim"))
    for row, cells in zip(rows, lines, strict=True):
        console.print(Text(_aligned(cells, widths), "" if _ran(row) else "yellow"))


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
        else [row.backend, row.precision, f"cannot run: {_why(row, before)}"]
        for row, before in zip(rows, [rows[0], *rows], strict=False)
    ]
    return header, lines


def _why(row: Row, before: Row) -> str:
    why = row.outcome.trouble or ""
    return "as above" if why == before.outcome.trouble else textwrap.shorten(why, 240)


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


def _aligned(cells: Cells, widths: Sequence[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(cells[:LEFT], widths, strict=False)]
    numbers = cells[LEFT:]
    if len(cells) == len(widths):
        numbers = [c.rjust(width) for c, width in zip(numbers, widths[LEFT:], strict=True)]
    return "  ".join([*words, *numbers])

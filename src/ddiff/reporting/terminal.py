"""The report on the terminal."""

from ddiff.console import console
from ddiff.reporting.comparison import Comparison
from ddiff.reporting.markdown import table


def print_table(comparison: Comparison) -> None:
    """A row for each group of seeds, the protocols below, and what is broken."""
    header, rows = table(comparison)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        console.print("  ".join(cells), markup=False)
    for column in comparison.columns:
        console.print(f"{column.title}: {column.protocol}", markup=False)
    for trouble in comparison.troubles:
        console.print(f"note        {trouble}", markup=False)

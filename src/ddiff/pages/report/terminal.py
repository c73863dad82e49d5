"""The report on the terminal."""

from collections.abc import Sequence

from ddiff.pages.report.comparison import Comparison
from ddiff.pages.report.markdown import table
from ddiff.pages.report.profiles import changes, words
from ddiff.system.console import console


def print_table(comparison: Comparison) -> None:
    """A row for each group of seeds, the protocols below, and what is broken."""
    _print(*table(comparison))
    for i in comparison.main:
        column = comparison.columns[i]
        console.print(f"{column.title}: {column.protocol}", markup=False)
    if more := len(comparison.columns) - len(comparison.main):
        console.print(
            f"more        {more} figures that fewer runs have are in the page and the text"
        )
    if comparison.shared:
        console.print(f"all runs    {', '.join(comparison.shared)}", markup=False)
    for change in changes(comparison):
        console.print(f"\nprofile     {change.title}", markup=False)
        for one in change.tables:
            _print(*words(one))
    for trouble in comparison.troubles:
        console.print(f"note        {trouble}", markup=False)


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        console.print("  ".join(cells), markup=False)

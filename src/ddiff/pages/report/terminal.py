"""The report on the terminal."""

from ddiff.pages.report.comparison import Comparison
from ddiff.pages.report.markdown import table
from ddiff.pages.report.profiles import changes, words
from ddiff.system.console import console, show_table


def print_table(comparison: Comparison) -> None:
    """A row for each group of seeds, the protocols below, and what is broken."""
    show_table(*table(comparison))
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
            show_table(*words(one))
    for trouble in comparison.troubles:
        console.print(f"note        {trouble}", markup=False)

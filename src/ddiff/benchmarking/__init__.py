from ddiff.benchmarking import sampling, training
from ddiff.benchmarking.contest import Choice, Contest, Row, rows_of
from ddiff.benchmarking.racing import Contestant, Outcome, race
from ddiff.benchmarking.report import compare
from ddiff.benchmarking.subject import Subject, checked

__all__ = [
    "Choice",
    "Contest",
    "Contestant",
    "Outcome",
    "Row",
    "Subject",
    "checked",
    "compare",
    "race",
    "rows_of",
    "sampling",
    "training",
]

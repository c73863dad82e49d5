from ddiff.benchmarking import sampling, training
from ddiff.benchmarking.racing import Choice, Contest, Contestant, Row, race
from ddiff.benchmarking.report import compare
from ddiff.benchmarking.subject import NetUnderTest, checked

__all__ = [
    "Choice",
    "Contest",
    "Contestant",
    "NetUnderTest",
    "Row",
    "checked",
    "compare",
    "race",
    "sampling",
    "training",
]

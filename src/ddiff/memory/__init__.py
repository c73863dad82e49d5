from ddiff.memory.budget import check_budget
from ddiff.memory.dry import Step, drive, plan_of, predicted
from ddiff.memory.levers import LEVERS, in_words
from ddiff.memory.tally import Peak, Tally

__all__ = [
    "LEVERS",
    "Peak",
    "Step",
    "Tally",
    "check_budget",
    "drive",
    "in_words",
    "plan_of",
    "predicted",
]

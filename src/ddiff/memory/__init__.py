from ddiff.config.levers import LEVERS
from ddiff.memory.budget import check_budget
from ddiff.memory.dry import Step, drive, plan_of, predicted
from ddiff.memory.tally import Peak, Tally

__all__ = [
    "LEVERS",
    "Peak",
    "Step",
    "Tally",
    "check_budget",
    "drive",
    "plan_of",
    "predicted",
]

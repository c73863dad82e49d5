from ddiff.diffusion.guidance import NO_LABEL, ClassifierFree
from ddiff.diffusion.objectives import X0, Eps, Objective, V
from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.solvers import Plan, solve, spaced

__all__ = [
    "NO_LABEL",
    "X0",
    "ClassifierFree",
    "Eps",
    "Objective",
    "Plan",
    "Schedule",
    "V",
    "solve",
    "spaced",
]

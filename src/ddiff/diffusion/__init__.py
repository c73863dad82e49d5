"""Diffusion in plain torch: schedules, objectives, the loss, solvers and guidance."""

from ddiff.diffusion.guidance import NO_LABEL, ClassifierFree, Guidance, Interval, Step
from ddiff.diffusion.loss import Losses, loss
from ddiff.diffusion.objectives import X0, Eps, Flow, Objective, V
from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.shortcuts import Shortcuts
from ddiff.diffusion.solvers import Plan, solve, spaced

__all__ = [
    "NO_LABEL",
    "X0",
    "ClassifierFree",
    "Eps",
    "Flow",
    "Guidance",
    "Interval",
    "Losses",
    "Objective",
    "Plan",
    "Schedule",
    "Shortcuts",
    "Step",
    "V",
    "loss",
    "solve",
    "spaced",
]

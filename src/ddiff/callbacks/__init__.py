from ddiff.callbacks.checkpoints import AtStart, Checkpoints
from ddiff.callbacks.dashboard import Dashboard
from ddiff.callbacks.evaluations import Evaluations
from ddiff.callbacks.finite import StopOnNaN
from ddiff.callbacks.progress import Progress, Resumed
from ddiff.callbacks.resources import Resources
from ddiff.callbacks.samples import Samples
from ddiff.callbacks.threads import AdaptThreads
from ddiff.callbacks.timesteps import Timesteps

__all__ = [
    "AdaptThreads",
    "AtStart",
    "Checkpoints",
    "Dashboard",
    "Evaluations",
    "Progress",
    "Resources",
    "Resumed",
    "Samples",
    "StopOnNaN",
    "Timesteps",
]

from ddiff.training.callbacks.averages import PowerAverages
from ddiff.training.callbacks.checkpoints import AtStart, Checkpoints
from ddiff.training.callbacks.dashboard import Dashboard
from ddiff.training.callbacks.finite import StopOnNaN
from ddiff.training.callbacks.order import When, build_callbacks, ordered
from ddiff.training.callbacks.progress import Progress, Resumed
from ddiff.training.callbacks.resources import Resources
from ddiff.training.callbacks.samples import Evaluations, Samples
from ddiff.training.callbacks.threads import AdaptThreads
from ddiff.training.callbacks.timesteps import Timesteps

__all__ = [
    "AdaptThreads",
    "AtStart",
    "Checkpoints",
    "Dashboard",
    "Evaluations",
    "PowerAverages",
    "Progress",
    "Resources",
    "Resumed",
    "Samples",
    "StopOnNaN",
    "Timesteps",
    "When",
    "build_callbacks",
    "ordered",
]

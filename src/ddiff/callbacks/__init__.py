from ddiff.callbacks.checkpoints import Checkpoints
from ddiff.callbacks.evaluations import Evaluations
from ddiff.callbacks.finite import StopOnNaN
from ddiff.callbacks.progress import Progress
from ddiff.callbacks.samples import Samples
from ddiff.callbacks.timesteps import Timesteps

__all__ = ["Checkpoints", "Evaluations", "Progress", "Samples", "StopOnNaN", "Timesteps"]

from ddiff.callbacks.checkpoints import Checkpoints
from ddiff.callbacks.finite import StopOnNaN
from ddiff.callbacks.progress import Progress
from ddiff.callbacks.samples import Samples
from ddiff.callbacks.timesteps import Timesteps

__all__ = ["Checkpoints", "Progress", "Samples", "StopOnNaN", "Timesteps"]

from ddiff.profiling.marks import listening, phase, step
from ddiff.profiling.options import Off, Simple, Subject, Torch

__all__ = ["Off", "Simple", "Subject", "Torch", "listening", "phase", "step"]

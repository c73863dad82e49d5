from ddiff.profiling.options import Off, Simple, Subject, Torch

__all__ = ["Off", "Simple", "Subject", "Torch"]

from ddiff.profiling.profilers import Off, Simple, Subject, Torch, bytes_of

__all__ = ["Off", "Simple", "Subject", "Torch", "bytes_of"]

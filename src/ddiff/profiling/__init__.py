from ddiff.profiling.profilers import Off, Profiled, Simple, Torch, bytes_of

__all__ = ["Off", "Profiled", "Simple", "Torch", "bytes_of"]

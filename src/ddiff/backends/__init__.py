from ddiff.backends.auto import Auto
from ddiff.backends.compiled import Compiled
from ddiff.backends.eager import Eager
from ddiff.backends.execution import Backend, Execution, device_of
from ddiff.backends.native import Native
from ddiff.backends.tensorrt import TensorRT

__all__ = [
    "Auto",
    "Backend",
    "Compiled",
    "Eager",
    "Execution",
    "Native",
    "TensorRT",
    "device_of",
]

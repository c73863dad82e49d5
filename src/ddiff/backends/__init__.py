from ddiff.backends.auto import Auto
from ddiff.backends.compiled import Compiled
from ddiff.backends.eager import Eager
from ddiff.backends.execution import Backend, Execution, device_of
from ddiff.backends.native import Native
from ddiff.backends.stepper import Stepper, Work
from ddiff.backends.tensorrt import TensorRT

__all__ = [
    "Auto",
    "Backend",
    "Compiled",
    "Eager",
    "Execution",
    "Native",
    "Stepper",
    "TensorRT",
    "Work",
    "device_of",
]

"""Engines of TensorRT on a GPU: called by addresses of torch's tensors, replayed as CUDA graphs."""

from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from ddiff.artifacts.formats import NAMES, OUTPUT
from ddiff.system.errors import DdiffError
from ddiff.system.graphs import replayed

LEAST_VERSION = (1, 7)
KEPT = 4  # executions, each of its own number of rows
LONGEST = 300  # letters of an error of TensorRT
NOISE = "Thread context has not been set"  # said at every build, as an error


def load_tensorrt(asked: str) -> Any:
    """The module tensorrt_rtx; `asked` is what needs it."""
    try:
        trt = import_module("tensorrt_rtx")
    except (ImportError, OSError) as error:
        raise DdiffError(
            f"{asked} needs TensorRT for RTX, which is not installed: "
            f"pip install 'ddiff[tensorrt]' ({error})"
        ) from error
    if tuple(map(int, trt.__version__.split(".")[:2])) < LEAST_VERSION:
        raise DdiffError(
            f"{asked} needs TensorRT for RTX {'.'.join(map(str, LEAST_VERSION))} or later, and "
            f"this is {trt.__version__}: pip install --upgrade 'ddiff[tensorrt]'"
        )
    return trt


class Log:
    """Messages of TensorRT: its errors, and what the builder says about the engine's layers."""

    LAYERS = "Layers:\n"

    def __init__(self, trt: Any):
        self.errors: list[str] = []
        self.layers = ""
        log = self

        class Receiver(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                log.receive(severity <= trt.ILogger.Severity.ERROR, text)

        self.receiver = Receiver()

    def receive(self, is_error: bool, text: str) -> None:
        if is_error and NOISE not in text:
            self.errors.append(" ".join(text.split()))
        elif text.startswith(self.LAYERS):
            self.layers += text

    def why(self) -> str:
        """The last error, or words where TensorRT gave none."""
        return shorten(self.errors[-1], LONGEST) if self.errors else "TensorRT does not say why"


class Engine:
    """The function in an engine: (x, t[, y]) -> prediction, on torch's current stream.

    Each number of rows has an execution of its own; the `KEPT` used last stay in memory.
    """

    def __init__(self, trt: Any, plan: bytes, about: str, device: torch.device):
        self.about, self.log = about, Log(trt)
        with torch.cuda.device(device):  # TensorRT keeps an engine on the current device
            self.runtime = trt.Runtime(self.log.receiver)
            self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            why = _reason(trt, self.runtime, plan, self.log)
            raise DdiffError(f"{about} cannot be loaded: {why}")
        self.config = self.engine.create_runtime_config()
        # kernels for a number of rows are compiled before its graph is captured, not meanwhile
        strategy = trt.DynamicShapesKernelSpecializationStrategy
        self.config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
        # what lies between the layers is in memory of torch, as large as the rows need
        self.config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        self.executions: OrderedDict[int, Callable[..., Tensor]] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> Tensor:
        rows = len(inputs[0])
        # contexts, streams and graphs belong to the current device: make it the tensors'
        with torch.cuda.device(inputs[0].device):
            if rows not in self.executions:
                while len(self.executions) >= KEPT:
                    self.executions.popitem(last=False)
                self.executions[rows] = self._execution(inputs)
            self.executions.move_to_end(rows)
            return self.executions[rows](*inputs)

    def _execution(self, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        context = self.engine.create_execution_context(self.config)
        if context is None:
            raise DdiffError(f"{self.about} cannot be executed: {self.log.why()}")
        bound = Bound(context, inputs, lambda: f"{self.about} failed: {self.log.why()}")
        replay = replayed(bound.launch, context.is_stream_capturable)

        def run(*inputs: Tensor) -> Tensor:
            bound.fill(inputs)
            replay()
            return bound.output.clone()  # the next call overwrites it

        return run


class Bound:
    """An execution context with buffers of its own, whose addresses a CUDA graph may keep."""

    def __init__(self, context: Any, inputs: tuple[Tensor, ...], why: Callable[[], str]):
        self.context, self.why = context, why
        self.inputs = tuple(value.contiguous().clone() for value in inputs)
        self.output = torch.empty_like(self.inputs[0])
        buffers = dict(zip(NAMES, self.inputs, strict=False))
        for name, value in buffers.items():
            if not context.set_input_shape(name, tuple(value.shape)):
                raise DdiffError(why())
        size = context.update_device_memory_size_for_shapes()
        self.between = torch.empty(max(1, size), dtype=torch.uint8, device=self.output.device)
        context.set_device_memory(self.between.data_ptr(), size)
        for name, value in (buffers | {OUTPUT: self.output}).items():
            if not context.set_tensor_address(name, value.data_ptr()):
                raise DdiffError(why())

    def fill(self, inputs: tuple[Tensor, ...]) -> None:
        for buffer, value in zip(self.inputs, inputs, strict=True):
            buffer.copy_(value)

    def launch(self, stream: int) -> None:
        """Put one execution on a stream, which is named by its address."""
        if not self.context.execute_async_v3(stream):
            raise DdiffError(self.why())


def _reason(trt: Any, runtime: Any, plan: bytes, log: Log) -> str:
    """Why TensorRT does not take an engine, in the words of its own check where it has some."""
    said = log.why()
    _, found = runtime.get_engine_validity(plan)
    names = trt.EngineInvalidityDiagnostics.__members__.items()
    faults = [name.lower().replace("_", " ") for name, bit in names if int(found) & int(bit)]
    return f"{', '.join(faults)} ({said})" if faults else said

"""How an engine is executed, with stand-ins for TensorRT and the GPU: addresses, shapes, graphs."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddiff.artifacts.engine import KEPT, Bound, Engine, Log
from ddiff.system.errors import DdiffError
from ddiff.system.graphs import WARM_UP, replayed

SIDE, CURRENT = 7, 1  # addresses of streams
CPU = torch.device("cpu")


def memory(address: int, count: int, kind: Any) -> Any:
    return (kind * count).from_address(address)


class Context:
    """An execution context that reads and writes memory by address: prediction = x + t."""

    def __init__(self, rows: int = 8, works: bool = True) -> None:
        self.most, self.works = rows, works
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= self.most

    def update_device_memory_size_for_shapes(self) -> int:
        return 1024 * self.shapes["x"][0]

    def set_device_memory(self, address: int, size: int) -> None:
        self.between = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        rows, width = self.shapes["x"]
        x = memory(self.addresses["x"], rows * width, ctypes.c_float)
        t = memory(self.addresses["t"], rows, ctypes.c_int64)
        made = memory(self.addresses["prediction"], rows * width, ctypes.c_float)
        for place in range(rows * width):
            made[place] = x[place] + t[place // width]
        return self.works


class Config:
    dynamic_shapes_kernel_specialization_strategy = ""
    allocation = ""

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy


class Library:
    """A stand-in for tensorrt_rtx whose engines are made of such contexts."""

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    class DynamicShapesKernelSpecializationStrategy:
        EAGER = "eager"

    class ExecutionContextAllocationStrategy:
        USER_MANAGED = "of torch"

    class EngineInvalidityDiagnostics:
        __members__ = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2}  # noqa: RUF012

    def __init__(self, loads: bool = True) -> None:
        self.loads, self.contexts = loads, []

    def Runtime(self, receiver: Any) -> Any:
        self.receiver = receiver
        return SimpleNamespace(
            deserialize_cuda_engine=self.engine, get_engine_validity=lambda plan: (2, 2)
        )

    def engine(self, plan: bytes) -> Any:
        if not self.loads:
            self.receiver.log(0, "Thread context has not been set! Using global log stream.")
            self.receiver.log(1, "Error Code 6:\n  this engine is for sm_80")
            self.receiver.log(2, "a warning")
            return None
        self.config = Config()
        return SimpleNamespace(
            create_runtime_config=lambda: self.config, create_execution_context=self.context
        )

    def context(self, config: Any) -> Context:
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        assert config.allocation == "of torch"
        self.contexts.append(Context())
        return self.contexts[-1]


def inputs(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, generator=random), torch.arange(rows)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.cuda, replaced by what records the order of calls; a replay launches again."""
    told: list[str] = []

    class Stream:
        def __init__(self, address: int = SIDE) -> None:
            self.cuda_stream = address

        def wait_stream(self, other: "Stream") -> None:
            told.append(f"{self.cuda_stream} waits for {other.cuda_stream}")

    @contextmanager
    def stream(one: Stream) -> Iterator[None]:
        told.append(f"on {one.cuda_stream}")
        yield

    @contextmanager
    def graph(made: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        told.append(f"capture on {stream.cuda_stream}, {capture_error_mode}")
        yield

    class CUDAGraph:
        def replay(self) -> None:
            told.append("replay")

    @contextmanager
    def device(one: torch.device) -> Iterator[None]:
        nonlocal current
        before, current = current, one
        yield
        current = before

    current = None
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    for name, value in (
        ("device", device), ("Stream", Stream), ("stream", stream), ("graph", graph),
        ("CUDAGraph", CUDAGraph), ("current_stream", lambda: Stream(CURRENT)),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    return told


def test_tensors_are_bound_by_address_and_shape() -> None:
    context = Context()
    bound = Bound(context, inputs(2), lambda: "why")
    assert context.shapes == {"x": (2, 3), "t": (2,)}
    assert context.addresses["prediction"] == bound.output.data_ptr()
    assert context.between == (bound.between.data_ptr(), 2048)
    x, t = inputs(2, seed=1)
    bound.fill((x, t))
    bound.launch(5)
    assert context.streams == [5]
    assert torch.equal(bound.output, x + t[:, None])


def test_inputs_of_another_layout_are_copied() -> None:
    """An address tells nothing of strides."""
    x = torch.randn(3, 2).T
    bound = Bound(Context(), (x, torch.arange(2)), lambda: "why")
    bound.launch(5)
    assert torch.equal(bound.output, x + torch.arange(2)[:, None])


@pytest.mark.parametrize("context", [Context(rows=1), Context(works=False)])
def test_what_tensorrt_refuses_is_said(context: Context) -> None:
    with pytest.raises(DdiffError, match=r"a\.engine failed"):
        Bound(context, inputs(2), lambda: "a.engine failed").launch(5)


def test_a_capture_follows_a_warm_up_on_a_stream_of_its_own(gpu: list[str]) -> None:
    def launch(stream: int) -> None:
        gpu.append(f"launch on {stream}")

    replay = replayed(launch, lambda stream: stream == SIDE)
    replay()
    assert gpu == [
        f"{SIDE} waits for {CURRENT}", f"on {SIDE}", *[f"launch on {SIDE}"] * WARM_UP,
        f"{CURRENT} waits for {SIDE}", f"capture on {SIDE}, thread_local", f"launch on {SIDE}",
        "replay",
    ]  # fmt: skip


def test_what_cannot_be_captured_is_launched(gpu: list[str]) -> None:
    launched: list[int] = []
    run = replayed(launched.append, lambda stream: False)
    assert launched == [SIDE] * WARM_UP
    run()
    run()
    assert launched[WARM_UP:] == [CURRENT, CURRENT]
    assert "replay" not in gpu


def test_each_number_of_rows_is_captured_once(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library()
    made = Engine(library, b"plan", "a.engine", CPU)
    # a replay does what was captured: the launch of the context that was made last
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda _: library.contexts[-1].execute_async_v3(SIDE)
    )
    first = made(*inputs(2))
    second = made(*inputs(2, seed=1))
    for found, seed in ((first, 0), (second, 1)):  # the second call did not overwrite the first
        x, t = inputs(2, seed)
        assert torch.equal(found, x + t[:, None])
    assert len(library.contexts) == 1
    for rows in range(3, 3 + KEPT):
        made(*inputs(rows))
    assert list(made.executions) == list(range(3, 3 + KEPT))  # the oldest was let go
    assert len(library.contexts) == 1 + KEPT


def test_everything_happens_on_the_device_of_the_tensors(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is current: a load, a context, its launches, a stream, a graph."""
    found: dict[str, set[Any]] = {}

    def watch(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def watched(*values: Any, **options: Any) -> Any:
            found.setdefault(name, set()).add(torch.cuda.current_device())
            return call(*values, **options)

        monkeypatch.setattr(owner, name, watched)

    library = Library()
    for name in ("engine", "context"):
        watch(library, name)
    watch(Context, "execute_async_v3")
    for name in ("Stream", "current_stream", "graph", "CUDAGraph"):
        watch(torch.cuda, name)
    made = Engine(library, b"plan", "a.engine", CPU)
    for seed in (0, 1):
        made(*inputs(2, seed))
    assert gpu.count("replay") == 2
    assert set(found) == {"engine", "context", "execute_async_v3", "Stream", "current_stream",
                          "graph", "CUDAGraph"}  # fmt: skip
    assert set().union(*found.values()) == {CPU}
    assert torch.cuda.current_device() is None  # as before


def test_an_engine_that_does_not_load(gpu: list[str]) -> None:
    words = r"a\.engine cannot be loaded: unsupported cc \(Error Code 6: this engine is for sm_80\)"
    with pytest.raises(DdiffError, match=words):
        Engine(Library(loads=False), b"plan", "a.engine", CPU)


def test_an_engine_whose_fault_tensorrt_does_not_name() -> None:
    log = Log(Library())
    assert log.why() == "TensorRT does not say why"
    log.receive(False, "Layers:\nName: a")
    assert log.layers == "Layers:\nName: a"

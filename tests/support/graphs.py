"""Stand-ins for CUDA graphs, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph(TorchDispatchMode):
    """A stand-in for a CUDA graph: the operations of a capture, which a replay repeats on the same
    memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        for operation, args, kwargs, made in self.operations:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Cuda:
    """A stand-in for torch.cuda that records what a capture asks of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.said: list[object] = []
        self.recording: Graph | None = None
        for name in ("device", "Stream", "current_stream", "stream"):
            monkeypatch.setattr(torch.cuda, name, self.recorder(name))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(
            torch.cuda, "is_current_stream_capturing", lambda: self.recording is not None
        )

    @contextmanager
    def graph(self, graph: Graph, stream: object, capture_error_mode: str) -> Iterator[None]:
        self.said.append(("graph", capture_error_mode))
        self.recording = graph
        with graph:
            yield
        self.recording = None

    def recorder(self, name: str):
        def call(*values: object, **options: object) -> "Cuda":
            self.said.append((name, options.get("capture_error_mode")))
            return self

        return call

    cuda_stream = 0

    def wait_stream(self, other: object) -> None: ...

    def __enter__(self) -> "Cuda":
        return self

    def __exit__(self, *_: object) -> None: ...

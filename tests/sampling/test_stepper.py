"""The stepper's buffers and graphs."""

import gc
import weakref
from collections import Counter
from typing import Literal

import pytest
import torch

from ddiff.backends.execution import Execution
from ddiff.diffusion import ClassifierFree
from ddiff.diffusion.objectives import V
from ddiff.diffusion.schedules import cosine
from ddiff.diffusion.solvers import ddpm
from ddiff.sampling.stepper import Stepper, Work


def stepper(graph: bool | Literal["try"] = False) -> Stepper:
    work = Work(ddpm(cosine(T=20), num_steps=4), V(), (1, 4, 4), ClassifierFree(0.0), 1.0, key=7)
    execution = Execution(lambda x, t, y: x.tanh(), graph=graph)
    return Stepper(execution, work, 3, False, torch.device("cpu"), Counter())


def test_its_buffers_go_with_it() -> None:
    """At once, not when the garbage collector comes: on a GPU they are the memory of a batch."""
    made = stepper()
    made.start([0, 1, 2], None)
    made.advance()
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


class Cuda:
    """A stand-in for torch.cuda that records what a capture asks of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.said: list[object] = []
        for name in ("device", "Stream", "current_stream", "stream", "graph", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, self.recorder(name))

    def recorder(self, name: str):
        def call(*values: object, **options: object) -> "Cuda":
            self.said.append((name, options.get("capture_error_mode")))
            return self

        return call

    cuda_stream = 0

    def wait_stream(self, other: object) -> None: ...

    def replay(self) -> None: ...

    def __enter__(self) -> "Cuda":
        return self

    def __exit__(self, *_: object) -> None: ...


def test_a_capture_lets_other_threads_use_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    made = stepper(graph=True)
    assert ("graph", "thread_local") in cuda.said
    assert cuda.said[0] == ("device", None)  # of the tensors, whichever is current
    assert made.rows == 3  # that a replay puts through the net
    assert made.counts["asked"] == 0  # warming up is no sampling


def test_a_net_that_cannot_be_captured_is_run_step_by_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cuda = Cuda(monkeypatch)

    def refuse(*_: object, **__: object) -> Cuda:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.raises(RuntimeError, match="not permitted"):
        stepper(graph=True)  # asked for
    made, plain = stepper(graph="try"), stepper()
    assert "backend.graph=false: this net's step is no CUDA graph (CUDA error: operation not" in (
        capsys.readouterr().out
    )
    for one in (made, plain):
        one.start([0, 1, 2], None)
        one.advance()
    assert torch.equal(made.x, plain.x)
    assert cuda.said

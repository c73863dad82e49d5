"""The stepper's buffers and graphs."""

import gc
import math
import weakref
from collections import Counter
from typing import Literal

import pytest
import torch
from torch import Tensor

from ddiff.backends.execution import Execution
from ddiff.diffusion import ClassifierFree, Plan
from ddiff.diffusion.objectives import V
from ddiff.diffusion.schedules import cosine
from ddiff.diffusion.solvers import ddim, ddpm, dpmpp_2m, heun, unipc
from ddiff.sampling.stepper import Stepper, Work
from tests.support.graphs import Cuda


def stepper(
    graph: bool | Literal["try"] = False,
    plan: Plan | None = None,
    guidance: float = 0.0,
    y: Tensor | None = None,
) -> Stepper:
    plan, rule = plan or ddpm(cosine(T=20), num_steps=4), ClassifierFree(guidance)
    work = Work(plan.guided_by(rule), V(), (1, 4, 4), rule, 1.0, key=7)
    execution = Execution(predict, graph=graph)
    return Stepper(execution, work, 3, y, torch.device("cpu"), Counter())


def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """A net that looks at the time, and at the label or the row of numbers."""
    told = t / 20 if y is None else t / 20 + (y if y.ndim == 1 else y.nan_to_num(nan=-1.0).sum(1))
    return (x + told.view(-1, 1, 1, 1)).tanh()


@pytest.mark.parametrize("graph", [False, True])
def test_its_buffers_go_with_it(graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not when the garbage collector comes: on a GPU they are the memory of a batch."""
    if graph:
        Cuda(monkeypatch)
    made = stepper(graph)
    made.start([0, 1, 2], None)
    made.advance()
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


def test_a_capture_lets_other_threads_use_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    made = stepper(graph=True)
    assert ("graph", "thread_local") in cuda.said
    assert cuda.said[0] == ("device", None)  # of the tensors, whichever is current
    assert made.rows == 3  # that a replay puts through the net
    assert made.counts["asked"] == 0  # warming up is no sampling


TOLD = {
    "nothing": None,
    "labels": torch.tensor([0, 1, 2]),
    "rows": torch.tensor([[0.1, 0.2], [0.5, math.nan], [math.nan, math.nan]]),
}


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("solver", [ddim, dpmpp_2m, heun, unipc])
def test_replays_go_through_the_plan(monkeypatch, solver, told) -> None:
    """A replay repeats one step's operations, which find their row of the table by themselves."""
    plan = solver(cosine(T=20), num_steps=4)
    y = TOLD[told]
    guidance = 0.0 if y is None else 1.5
    plain = stepper(plan=plan, guidance=guidance, y=y)
    Cuda(monkeypatch)
    replayed = stepper(graph=True, plan=plan, guidance=guidance, y=y)
    for _ in range(2):  # the second batch starts anew
        for one in (plain, replayed):
            one.start([4, 5, 6], y)
        for _ in range(len(plan)):
            torch.testing.assert_close(replayed.advance(), plain.advance())


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

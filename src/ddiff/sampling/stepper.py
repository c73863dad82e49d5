"""Sampling in fixed buffers, for backends that need them: CUDA graphs and fused solver steps.

Eager sampling runs `diffusion.solve`, as the equations are written. A test checks that both agree.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddiff.backends.execution import Execution
from ddiff.diffusion import Guidance, Objective, Plan, Step
from ddiff.diffusion.guidance import combines_two, doubled
from ddiff.kernels import philox
from ddiff.kernels.solver_step import reference
from ddiff.system.console import console
from ddiff.system.graphs import replayed
from ddiff.system.phases import phase


@dataclass(frozen=True, eq=False)
class Work:
    """Everything that defines a sampling, except the net and the samples' indices."""

    plan: Plan
    objective: Objective
    shape: tuple[int, ...]  # [C, *S]
    guidance: Guidance
    clamp: float | None
    key: int  # of the noise


class Stepper:
    """The state of one batch, updated in place: x, the last estimates of x_0, the step's number.

    No step makes the host wait for a number.
    """

    def __init__(
        self,
        execution: Execution,
        work: Work,
        batch: int,
        y: Tensor | None,
        device: torch.device,
        counts: Counter[str],
    ) -> None:
        self.work, self.counts = work, counts  # `asked`: rows that went through the net
        self.predict, self.solver_step = execution.predict, execution.solver_step or reference
        table = work.plan.table(work.objective)
        # the solver's step combines two predictions; any other guidance is called instead
        self.called = not combines_two(work.guidance)
        graph = bool(execution.graph) and not self.called
        self.weights, self.number = work.plan.weights.tolist(), 0
        guided = [y is not None and not self.called and weight != 0 for weight in self.weights]
        self.doubled = [any(guided)] * len(guided) if graph else guided  # a graph repeats one step
        self.table = table.float().to(device)
        self.told = work.plan.told.to(device)
        self.noisy = work.plan.stochastic
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.samples = torch.zeros(batch, dtype=torch.int64, device=device)
        self.y = None if y is None else torch.zeros_like(y, device=device)
        self.x = torch.zeros(batch, *work.shape, device=device)
        memory = work.plan.memory
        self.x_0 = torch.zeros_like(self.x) if memory >= 1 else None
        self.x_0_before = torch.zeros_like(self.x) if memory == 2 else None
        self.replay: Callable[[], None] | None = None  # of the step's CUDA graph
        self.rows = 0  # that a replay puts through the net
        if graph:
            try:
                with torch.cuda.device(device):
                    self.replay = self._captured()
            except RuntimeError as error:  # what a user's net does may wait for the GPU
                if execution.graph != "try":
                    raise
                first = str(error).partition("\n")[0]
                console.print(f"backend.graph=false: this net's step is no CUDA graph ({first})")

    def start(self, indices: Sequence[int], y: Tensor | None) -> None:
        """Set x to the noise of the samples with these indices, before the first step."""
        self.samples.copy_(torch.tensor(indices))
        if self.y is not None:
            assert y is not None
            self.y.copy_(y)
        self.x.copy_(philox.normal(self.work.key, self.samples, 0, self.work.shape))
        for estimate in (self.x_0, self.x_0_before):
            if estimate is not None:
                estimate.zero_()
        self._rewind()

    def _rewind(self) -> None:
        self.step.zero_()
        self.number = 0

    def advance(self) -> Tensor:
        """Make a step and return x, which the next step overwrites."""
        if self.replay is None:
            self._run()
        else:
            with phase("replay"):
                self.replay()
            self.counts["asked"] += self.rows
        return self.x

    def _ask(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.counts["asked"] += len(x)
        return self.predict(x, t, y)

    def _ask_exactly(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Return the prediction in float32, for the arithmetic of a user's guidance."""
        return self._ask(x, t, y).float()

    @torch.no_grad()
    def _run(self) -> None:
        x, y = self.x, self.y
        t = self.told.index_select(0, self.step.view(1)).expand(len(x))
        if self.doubled[self.number]:
            with phase("guidance"):
                assert y is not None
                x, t, y = doubled(x, t, y)
        with phase("net"):
            if self.called:
                step = Step(self.number, self.weights[self.number])
                pred = self.work.guidance(self._ask_exactly, x, t, y, step).contiguous()
            else:
                pred = self._ask(x, t, y).contiguous()
        with phase("solver step"):
            self.solver_step(
                self.x,
                pred,
                self.x_0,
                self.table,
                self.step,
                self.samples,
                self.work.key,
                self.work.clamp,
                self.noisy,
                self.x_0_before,
            )
            self.step.add_(1)
        self.number += 1

    def _captured(self) -> Callable[[], None]:
        """Capture `_run` in a CUDA graph and return its replay."""
        before = self.counts["asked"]

        def launch(_: int) -> None:
            asked = self.counts["asked"]
            if torch.cuda.is_current_stream_capturing():
                self.number = 0  # the step's number itself must not go back in every replay
            else:
                self._rewind()
            self._run()
            self.rows = self.counts["asked"] - asked

        replay = replayed(launch)
        self.counts["asked"] = before
        return replay

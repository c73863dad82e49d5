"""Sampling: the same net, weights, plan and noise under every backend and precision."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.backends import device_of
from ddiff.benchmarking.racing import Choice, Contest, Contestant, Fidelity, Row, Run
from ddiff.benchmarking.subject import NetUnderTest
from ddiff.diffusion import solve
from ddiff.metrics.pairs import pooled_psnr, psnr
from ddiff.nets.conditions import Layout
from ddiff.sampling.conditions import conditions_for, examples_of
from ddiff.sampling.generation import EAGER as EAGER_NODE
from ddiff.sampling.generation import FLOAT32, Generation, generation_of
from ddiff.system.errors import DdiffError

EAGER = Choice("eager", DictConfig(EAGER_NODE))
FP32 = Choice("fp32", DictConfig(FLOAT32))
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class Sampling:
    """One plan and one batch size. `first` is the precision of the first row: float32, of an
    exported net its own."""

    def __init__(self, subject: NetUnderTest, solver: Choice, batch_size: int) -> None:
        self.subject, self.solver, self.batch_size = subject, solver, batch_size
        self.y = conditions_for(
            "auto", batch_size, Layout.of_net(subject.options.net), examples_of(subject.trained)
        )
        self.first = _held(subject.trained) if subject.exported else FP32

    def generation(
        self, backend: Choice, precision: Choice, trained: Trained | None = None
    ) -> Generation:
        own = self.subject.options
        return generation_of(
            replace(trained or self.subject.trained, decoder=None),  # nets are compared
            solver=self.solver.node,
            guidance=own.guidance,
            precision=precision.node,
            backend=backend.node,
            seed=own.seed,
            clamp=own.sampling.clamp,
        )

    def plain(self) -> Run:
        """Sampling as one would write it with ddiff.diffusion alone, with noise from torch."""
        generation = self.generation(EAGER, self.first)
        net, device = generation.net, device_of(generation.net)
        size = (self.batch_size, *generation.shape)
        y = None if self.y is None else self.y.to(device)
        plan, objective, guidance = generation.plan, generation.objective, generation.guidance

        @torch.no_grad()
        def run() -> Tensor:
            generation.precision.prepare()
            x = torch.randn(size, device=device)
            noise = lambda step: torch.randn_like(x)  # noqa: E731
            *_, last = solve(net, plan, objective, x, noise, generation.clamp, y, guidance)
            return last.x

        return run

    def executed(self, backend: Choice, precision: Choice, trained: Trained | None = None) -> Run:
        """Sampling as ddiff.sample does it."""
        generation = self.generation(backend, precision, trained)
        indices, y = range(self.batch_size), self.y

        def run() -> Tensor:
            generation.precision.prepare()  # tf32 is a switch of the whole process
            return generation.batch(indices, y)

        return run

    def artifact(self, path: str) -> Run:
        """An exported model file, if it is of this very net."""
        own = self.subject.trained
        trained = Trained.load(path, self.subject.weights, device_of(own.net).type)
        if trained.digest != own.digest:
            raise DdiffError(f"{path} holds net {trained.digest}, and this one is {own.digest}")
        return self.executed(EAGER, _held(trained), trained)

    def judge(self, rows: Sequence[Row]) -> list[Fidelity]:
        """Closeness to eager samples of the same noise; the first row's noise is torch's own."""
        reference = self.executed(EAGER, self.first)().cpu()
        made = [row.last for row in rows[1:]]
        return [{}, *({} if x is None else closeness(x, reference) for x in made)]


def _held(trained: Trained) -> Choice:
    """The precision that an exported net was given."""
    node = trained.options.precision
    return Choice(SHORT.get(node.dtype, str(node.dtype)), node)


def closeness(x: Tensor, reference: Tensor) -> Fidelity:
    """PSNR over the range -1..1 in decibels, None where nothing differs; the largest difference."""
    x = x.cpu()
    found = pooled_psnr(psnr(x, reference).numpy())
    largest = (x.double() - reference.double()).abs().max().item()
    return {"psnr": None if largest == 0 else found, "max_error": largest}


def contests(
    subject: NetUnderTest,
    solvers: Sequence[Choice],
    batch_sizes: Sequence[int],
    backends: Sequence[Choice | str],
    precisions: Sequence[Choice],
) -> Iterator[Contest]:
    """One for each solver and batch size. A backend that is text is the path of an artifact."""
    shared = sum(p.numel() * p.element_size() for p in subject.trained.net.parameters())
    scale = subject.options.guidance.get("scale", 0)
    for solver, size in product(solvers, batch_sizes):
        work = Sampling(subject, solver, size)
        steps = len(work.generation(EAGER, work.first).plan)
        title = f"{solver.text}, {steps} steps, batch {size}"
        facts = {"solver": solver.text, "num_steps": steps, "batch_size": size, "guidance": scale,
                 "options": OmegaConf.to_container(solver.node)}  # fmt: skip
        rows = [Contestant("plain eager", work.first.text, work.plain, shared)]
        for b, p in product([b for b in backends if isinstance(b, Choice)], precisions):
            rows.append(Contestant(b.text, p.text, partial(work.executed, b, p), shared))
        for path in [b for b in backends if isinstance(b, str)]:
            build = partial(work.artifact, path)
            rows.append(Contestant(Path(path).name, "its own", build, shared))
        title += f", guidance {scale:g}" if scale else ""
        yield Contest(title, facts, size, rows, work.judge)

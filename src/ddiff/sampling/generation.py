"""From a trained net to samples, keyed by (seed, sample index).

The noise of sample 17 has the same bits in a batch of 1 and of 64, on one rank and on eight. The
sample is the same up to the rounding of the net's arithmetic, which may depend on the batch's size.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.trained import Trained
from ddiff.backends import Backend, Eager, Execution, device_of
from ddiff.build import build, build_backend, build_guidance, build_precision
from ddiff.config.options import Draw, Train
from ddiff.diffusion import Guidance, Objective, Plan, solve
from ddiff.kernels import philox
from ddiff.sampling.stepper import Stepper, Work
from ddiff.system.errors import ConfigError
from ddiff.system.phases import phase, step
from ddiff.system.precision import Precision
from ddiff.system.random import key

FLOAT32 = {"_target_": "ddiff.system.precision.Precision", "dtype": "float32"}
EAGER = {"_target_": "ddiff.backends.Eager"}


@dataclass(frozen=True, eq=False)
class Generation:
    """Everything that turns noise into samples."""

    net: nn.Module
    shape: tuple[int, ...]  # [C, *S]
    num_classes: int | None
    objective: Objective
    plan: Plan
    guidance: Guidance
    precision: Precision
    seed: int
    clamp: float | None = 1.0
    backend: Backend = field(default_factory=Eager)

    def __post_init__(self) -> None:
        self.guidance.check(self.num_classes)
        if self.plan.weight is None:
            object.__setattr__(self, "plan", self.plan.guided_by(self.guidance))

    def batches(
        self,
        num_samples: int,
        batch_size: int,
        y: Tensor | None = None,
        on_step: Callable[[int], None] = lambda samples: None,
    ) -> Iterator[Tensor]:
        """Samples 0 .. num_samples - 1 in order, [<= batch_size, C, *S] at a time. Another
        `batch_size` changes a sample by rounding only.

        `y` holds one label a sample. `on_step(samples)` is told of every solver step.
        """
        for first in range(0, num_samples, batch_size):
            wanted = min(batch_size, num_samples - first)
            size = batch_size if self.execution.static else wanted
            labels = None if y is None else y[first : first + wanted]
            if labels is not None and wanted < size:  # one batch size for all
                labels = torch.cat([labels, labels[-1:].expand(size - wanted)])
            indices = range(first, first + size)
            yield self.batch(indices, labels, lambda _, n=wanted: on_step(n))[:wanted]

    def batch(
        self,
        indices: Sequence[int],
        y: Tensor | None = None,
        on_step: Callable[[int], None] = lambda samples: None,
    ) -> Tensor:
        """The samples with these indices, float32 [B, C, *S] on the net's device."""
        was_training = self.net.training
        self.net.eval()
        with phase("start"):
            states = self.steps(indices, y)
        x = torch.empty(0)
        for _ in range(len(self.plan)):
            with step():
                x = next(states)
                with phase("logging"):
                    on_step(len(indices))
        self.net.train(was_training)
        return x.clone()

    def steps(self, indices: Sequence[int], y: Tensor | None = None) -> Iterator[Tensor]:
        """The batch x after every step of the plan. Another step may overwrite it."""
        self.counts["drawn"] += len(indices)
        by_solve = self.execution.solver_step is None and not self.execution.graph
        advance = (self._by_solve if by_solve else self._by_stepper)(indices, y)
        return (advance() for _ in range(len(self.plan)))

    def _by_solve(self, indices: Sequence[int], y: Tensor | None) -> Callable[[], Tensor]:
        """A function that makes the next step of `diffusion.solve`."""
        noise_key, device = key(self.seed, "sample"), device_of(self.net)
        samples = torch.tensor(indices, device=device)
        y = None if y is None else y.to(device)

        def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            self.counts["asked"] += len(x)
            return self.execution.predict(x, t, y).float().contiguous()

        def noise(number: int) -> Tensor:
            return philox.normal(noise_key, samples, number + 1, self.shape)

        states = solve(
            net, self.plan, self.objective, noise(-1), noise, self.clamp, y, self.guidance
        )

        @torch.no_grad()
        def advance() -> Tensor:
            return next(states).x

        return advance

    def _by_stepper(self, indices: Sequence[int], y: Tensor | None) -> Callable[[], Tensor]:
        """A function that makes the next step over fixed buffers."""
        stepper = self._stepper(len(indices), y is not None)
        stepper.start(indices, y)
        return stepper.advance

    @property
    def evaluations(self) -> int:
        """Evaluations of the net that a sample took, counted over the samples drawn so far."""
        return round(self.counts["asked"] / max(1, self.counts["drawn"]))

    @cached_property
    def counts(self) -> Counter[str]:
        """`asked`: rows that the net was asked; `drawn`: samples."""
        return Counter()

    @cached_property
    def execution(self) -> Execution:
        return self.backend.execution(self.net, self.precision)

    @cached_property
    def _steppers(self) -> dict[tuple[int, bool], Stepper]:
        return {}

    def _stepper(self, size: int, labelled: bool) -> Stepper:
        if (size, labelled) not in self._steppers:
            noise = key(self.seed, "sample")
            work = Work(self.plan, self.objective, self.shape, self.guidance, self.clamp, noise)
            device = device_of(self.net)
            self._steppers[size, labelled] = Stepper(
                self.execution, work, size, labelled, device, self.counts
            )
        return self._steppers[size, labelled]


def generation_of(
    trained: Trained,
    *,
    solver: DictConfig,
    guidance: DictConfig,
    precision: DictConfig,
    backend: DictConfig,
    seed: int,
    clamp: float | None,
    y: object = "auto",
) -> Generation:
    """How to sample with a trained net. Solver, guidance, precision and backend are as configs
    choose them; `y` is the option of that name."""
    net, device = trained.net, device_of(trained.net)
    if isinstance(net, ArtifactNet):
        net.check_options(backend, precision)
        built: Backend = Eager()
    else:
        built = build_backend(backend, device)
    return generation_by(
        trained,
        build(solver)(trained.schedule),
        build_guidance(guidance),
        build_precision(precision, device),
        built,
        seed,
        clamp,
        y,
    )


def generation_by(
    trained: Trained,
    plan: Plan,
    guidance: Guidance,
    precision: Precision,
    backend: Backend,
    seed: int,
    clamp: float | None,
    y: object = "auto",
) -> Generation:
    """How to sample with a trained net by parts that are built already."""
    net = trained.options.net
    guidance.check(net.num_classes, y)
    return Generation(
        net=trained.net,
        shape=tuple(net.shape),
        num_classes=net.num_classes,
        objective=trained.objective,
        plan=plan,
        guidance=guidance,
        precision=precision,
        seed=seed,
        clamp=clamp,
        backend=backend,
    )


def drawing(options: Draw) -> dict[str, Any]:
    """The options of a verb that are arguments of `generation_of`."""
    names = ("solver", "guidance", "precision", "backend", "seed", "clamp", "y")
    return {name: getattr(options, name) for name in names}


def in_training(module: Any, options: Train, plan: Plan) -> Generation:
    """How a training samples with the averaged net of its module. `options` are the run's."""
    return Generation(
        net=module.ema,
        shape=tuple(options.net.shape),
        num_classes=options.net.num_classes,
        objective=module.objective,
        plan=plan,
        guidance=build_guidance(options.guidance),
        precision=module.precision,
        seed=options.seed,
        clamp=options.sampling.clamp,
    )


def walk(trained: Trained, samples: int, solver: DictConfig, guidance: DictConfig) -> None:
    """Draws a few samples in float32 and drops them: what a net meets is what it is measured on."""
    generation = generation_of(
        trained,
        solver=solver,
        guidance=guidance,
        precision=DictConfig(FLOAT32),
        backend=DictConfig(EAGER),
        seed=0,
        clamp=trained.options.sampling.clamp,
    )
    generation.batch(range(samples), labels_for("auto", samples, generation.num_classes))


def labels_for(
    wanted: str | int | Sequence[int] | None, num_samples: int, num_classes: int | None
) -> Tensor | None:
    """Labels [num_samples] from the option `y`: one label, a list to repeat, `each` (equal shares
    in order, so that a square grid has a class a row), `none`, or `auto` (`each` where there are
    classes)."""
    if wanted == "auto":
        wanted = None if num_classes is None else "each"
    if wanted is None or wanted == "none":
        return None
    if num_classes is None:
        raise ConfigError("y: this run was trained without labels; leave y out")
    if wanted == "each":
        return torch.arange(num_samples) * num_classes // num_samples
    labels = list(wanted) if isinstance(wanted, Sequence) else [wanted]
    wrong = [y for y in labels if type(y) is not int or not 0 <= y < num_classes]
    if wrong or not labels:
        raise ConfigError(
            f"y: {wanted!r} is not a label; choose from 0..{num_classes - 1}, a list, "
            "each, none or auto"
        )
    return torch.tensor(labels).repeat(-(-num_samples // len(labels)))[:num_samples]


def row_length(y: Tensor | None) -> int | None:
    """Samples a class, where all labels come in equal shares in order: a picture's row each."""
    if y is None:
        return None
    shares = y.unique_consecutive(return_counts=True)[1].tolist()
    return shares[0] if len(shares) > 1 and shares[0] > 1 and len(set(shares)) == 1 else None

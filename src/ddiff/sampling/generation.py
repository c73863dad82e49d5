"""Sampling from a trained net, keyed by (seed, sample index).

The noise of sample 17 has the same bits in a batch of 1 and of 64, on one rank and on eight. The
sample is the same up to the rounding of the net's arithmetic, which may depend on the batch size.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddiff.artifacts.decoding import DecoderFile, bounded
from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.trained import Trained
from ddiff.backends import Backend, Eager, Execution, device_of
from ddiff.build import build, build_backend, build_guidance, build_precision
from ddiff.config.options import Draw, Train
from ddiff.diffusion import Guidance, Objective, Plan, solve
from ddiff.diffusion.guidance import Weaker
from ddiff.kernels import philox
from ddiff.nets.autoencoder import Decoder
from ddiff.nets.conditions import Layout
from ddiff.sampling.conditions import conditions_for, examples_of
from ddiff.sampling.given import Given
from ddiff.sampling.stepper import Stepper, Work
from ddiff.sampling.weaker import weaker_net
from ddiff.system.console import console
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
    shape: tuple[int, ...]  # [C, *S] of what the net draws
    num_classes: int | None
    objective: Objective
    plan: Plan
    guidance: Guidance
    precision: Precision
    seed: int
    clamp: float | None = 1.0
    backend: Backend = field(default_factory=Eager)
    given: Given | None = None  # what the samples are made from
    conditions: Mapping[str, Any] | None = None  # that the net is told besides a class
    decoder: Decoder | DecoderFile | None = None  # makes samples of latents, if the net draws these

    def __post_init__(self) -> None:
        self.guidance.check(bool(self.layout))
        if self.plan.weight is None:
            object.__setattr__(self, "plan", self.plan.guided_by(self.guidance))

    def batches(
        self,
        num_samples: int,
        batch_size: int,
        y: Tensor | None = None,
        on_step: Callable[[int], None] = lambda samples: None,
        first: int = 0,
    ) -> Iterator[Tensor]:
        """Draw `num_samples` samples from number `first` on, in order; yields
        [<= batch_size, *sample_shape] at a time.

        Another `batch_size` changes a sample by rounding only. `y` holds a label or a row a sample.
        `on_step(samples)` is called after every solver step with the number of samples in the
        batch.
        """
        for row in range(0, num_samples, batch_size):
            wanted = min(batch_size, num_samples - row)
            size = batch_size if self.execution.static else wanted
            labels = None if y is None else y[row : row + wanted]
            if labels is not None and wanted < size:  # fills the last batch up
                last = labels[-1:].expand(size - wanted, *labels.shape[1:])
                labels = torch.cat([labels, last])
            indices = range(first + row, first + row + size)
            yield self.batch(indices, labels, lambda _, n=wanted: on_step(n))[:wanted]

    def batch(
        self,
        indices: Sequence[int],
        y: Tensor | None = None,
        on_step: Callable[[int], None] = lambda samples: None,
    ) -> Tensor:
        """Draw the samples with these indices, float32 [B, *sample_shape] on the net's device."""
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
        if self.decoder is None:
            return x.clone()
        with phase("decoder"):
            return self.decoder(x)

    def steps(self, indices: Sequence[int], y: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the batch x after every step of the plan. The next step may overwrite it."""
        self.counts["drawn"] += len(indices)
        fused = self.execution.solver_step is not None or self.execution.graph
        by_solve = self.given is not None or not fused
        advance = (self._by_solve if by_solve else self._by_stepper)(indices, y)
        return (advance() for _ in range(len(self.plan)))

    def _by_solve(self, indices: Sequence[int], y: Tensor | None) -> Callable[[], Tensor]:
        """Return a function that makes the next step of `diffusion.solve`."""
        noise_key, device = key(self.seed, "sample"), device_of(self.net)
        samples = torch.tensor(indices, device=device)
        y = None if y is None else y.to(device)

        def net(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            self.counts["asked"] += self._passes * len(x)
            return self.execution.predict(x, t, y).float().contiguous()

        def noise(number: int) -> Tensor:
            return philox.normal(noise_key, samples, number + 1, self.shape)

        x, known, rule = noise(-1), None, self.rule
        if self.given is not None:
            x, known = self.given.begin(x, samples, self.plan)
            rule = self.given.guidance(known, rule, self.plan, self.objective, self.clamp)
            known = None if self.given.noise else known  # what is noisy is not put in as it is
        states = solve(net, self.plan, self.objective, x, noise, self.clamp, y, rule, known)

        @torch.no_grad()
        def advance() -> Tensor:
            return next(states).x

        return advance

    def _by_stepper(self, indices: Sequence[int], y: Tensor | None) -> Callable[[], Tensor]:
        """Return a function that makes the next step in fixed buffers."""
        stepper = self._stepper(len(indices), y)
        stepper.start(indices, y)
        return stepper.advance

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.decoder.shape if self.decoder else self.shape

    @property
    def evaluations(self) -> int:
        """Evaluations of the net per sample, averaged over the samples drawn so far."""
        return round(self.counts["asked"] / max(1, self.counts["drawn"]))

    @cached_property
    def layout(self) -> Layout:
        """Layout of what the net is told."""
        return Layout.of(self.shape, self.num_classes, self.conditions)

    @cached_property
    def counts(self) -> Counter[str]:
        """Counters: `asked`, rows that went through the net; `drawn`, samples."""
        return Counter()

    @property
    def _passes(self) -> int:
        """Passes through the net that an evaluation counts for: posterior guidance takes it back
        by a pass for each iteration."""
        return 1 + (self.given.posterior if self.given else 0)

    @cached_property
    def rule(self) -> Guidance:
        """The guidance; its weaker net, if there is one, is run and counted as the net is."""
        if not isinstance(self.guidance, Weaker):
            return self.guidance
        assert isinstance(self.guidance.weaker, nn.Module)
        predict = self.backend.execution(self.guidance.weaker, self.precision).predict

        def weaker(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            self.counts["asked"] += self._passes * len(x)
            return predict(x, t, y).float()

        return replace(self.guidance, weaker=weaker)

    @cached_property
    def execution(self) -> Execution:
        return self.backend.execution(self.net, self.precision)

    @cached_property
    def _steppers(self) -> dict[tuple[int, bool], Stepper]:
        return {}

    def _stepper(self, size: int, y: Tensor | None) -> Stepper:
        labelled = y is not None
        if (size, labelled) not in self._steppers:
            noise = key(self.seed, "sample")
            work = Work(self.plan, self.objective, self.shape, self.rule, self.clamp, noise)
            device = device_of(self.net)
            self._steppers[size, labelled] = Stepper(
                self.execution, work, size, y, device, self.counts
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
    given: Given | None = None,
) -> Generation:
    """Build the Generation of a trained net from its options.

    Solver, guidance, precision and backend are config nodes; `y` is the option of that name.
    """
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
        given,
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
    given: Given | None = None,
) -> Generation:
    """Build the Generation of a trained net from parts that are built already."""
    net = trained.options.net
    guidance.check(bool(Layout.of_net(trained.options.net)), y)
    check_shortcuts(plan, trained.options)
    if isinstance(guidance, Weaker) and guidance.weaker is None:
        guidance = replace(guidance, weaker=weaker_net(guidance, trained, plan.shortcuts))
    if plan.fitted:
        plan.table(trained.objective)  # refuses another objective
        tell_differences(plan.fitted, trained, guidance, clamp)
    plan = given.plan(plan) if given else plan
    if given and given.posterior:
        if isinstance(trained.net, ArtifactNet):
            raise ConfigError(
                "posterior: takes the net's derivatives, which exported files do not have; "
                "sample from the run"
            )
        backend = Eager()  # others run the net without derivatives
    return Generation(
        net=trained.net,
        shape=tuple(net.shape),
        num_classes=net.num_classes,
        objective=trained.objective,
        plan=plan,
        guidance=guidance,
        precision=precision,
        seed=seed,
        clamp=bounded(clamp, trained.decoder),
        backend=backend,
        given=given,
        conditions=net.get("conditions"),
        decoder=trained.decoder,
    )


def fitted_to(trained: Trained, guidance: Guidance, clamp: float | None) -> dict[str, Any]:
    """Return what a fitted plan says of the net and of the sampling that it was fitted to."""
    return {
        "objective": type(trained.objective).__name__.lower(),
        "net": trained.digest,
        "guidance": re.sub(r" at 0x\w+", "", str(guidance)),  # the address of a user's function
        "clamp": clamp,
    }


def tell_differences(
    fitted: Mapping[str, Any], trained: Trained, guidance: Guidance, clamp: float | None
) -> None:
    """Print a line if a plan was fitted to another net, guidance or clamp."""
    here = fitted_to(trained, guidance, clamp)
    other = [
        f"{name} {fitted.get(name)}" for name in here if fitted.get(name) not in (None, here[name])
    ]
    if other:
        console.print(f"solver      the plan was fitted to another {', another '.join(other)}")


def check_shortcuts(plan: Plan, options: Train) -> None:
    """Raise ConfigError if a plan has shortcuts that the net of these options has not learned."""
    if not plan.shortcuts:
        return
    if not options.module.get("shortcuts"):
        raise ConfigError(
            "solver=few is for nets that were trained with module.shortcuts=0.25, and this one was "
            "not; a new training can start from it by init="
        )
    most = options.module.shortcuts_steps // 2
    if len(plan) > most:
        raise ConfigError(
            f"solver.num_steps: this net has learned {most} steps to a sample at most"
        )


def drawing(options: Draw) -> dict[str, Any]:
    """The options of a verb that are arguments of `generation_of`."""
    names = ("solver", "guidance", "precision", "backend", "seed", "clamp", "y")
    return {name: getattr(options, name) for name in names}


def in_training(
    module: Any, options: Train, plan: Plan, decoder: Decoder | None = None
) -> Generation:
    """Build the Generation of a training, which samples with the averaged net of `module`.

    `options` are the run's, and `decoder` is that of its data.
    """
    return Generation(
        net=module.ema,
        shape=tuple(options.net.shape),
        num_classes=options.net.num_classes,
        objective=module.objective,
        plan=plan,
        guidance=build_guidance(options.guidance),
        precision=module.precision,
        seed=options.seed,
        clamp=bounded(options.sampling.clamp, decoder),
        conditions=options.net.get("conditions"),
        decoder=decoder,
    )


def walk(trained: Trained, samples: int, solver: DictConfig, guidance: DictConfig) -> None:
    """Draw a few samples in float32 and drop them.

    The caller's hook on the net records the inputs that it meets.
    """
    generation = generation_of(
        trained,
        solver=solver,
        guidance=guidance,
        precision=DictConfig(FLOAT32),
        backend=DictConfig(EAGER),
        seed=0,
        clamp=trained.options.sampling.clamp,
    )
    y = conditions_for("auto", samples, generation.layout, examples_of(trained))
    generation.batch(range(samples), y)

"""Training steps: the same weights, batch and timesteps under every backend and precision."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from omegaconf import DictConfig
from torch import Tensor

from ddiff.backends import device_of
from ddiff.benchmarking.racing import Choice, Contest, Contestant, Fidelity, Row
from ddiff.benchmarking.sampling import EAGER, FP32
from ddiff.benchmarking.subject import NetUnderTest
from ddiff.build import build_precision
from ddiff.diffusion.loss import noised
from ddiff.kernels import philox
from ddiff.nets.conditions import Layout
from ddiff.system.errors import ConfigError
from ddiff.system.random import generator, key
from ddiff.training.building import build_module
from ddiff.training.modules import DDPM

UNIFORM = {"_target_": "ddiff.diffusion.timesteps.Uniform"}  # no loss decides the next timestep
ALIKE = 5  # steps from the start with the same noise in every row, whose last loss is compared


class Steps:
    """Training of one batch by one backend: each call is a step as the trainer does it, at the
    full learning rate: a few steps of a warm-up would hide what a backend does wrong."""

    def __init__(self, module: DDPM, clip: float | None, x_0: Tensor, y: Tensor | None) -> None:
        self.module, self.clip, self.x_0, self.y = module, clip, x_0, y
        self.begin()

    def begin(self) -> None:
        module = self.module
        module.batches_seen = 0
        self.optimizer = module.make_optimizer()
        self.steps = 0
        scaling = module.precision.needs_scaling
        self.scaler = torch.amp.GradScaler(self.x_0.device.type, enabled=scaling)

    def __call__(self, alike: bool = False) -> Tensor:
        """Forward, loss, backward, clipping, optimiser, averaged weights; returns the loss."""
        module, x_0 = self.module, self.x_0
        module.precision.prepare()
        words, g = module.next_words(x_0.device)
        add_noise = module.native_noise(words)
        if add_noise is None and alike:
            add_noise = partial(self.by_philox, words)
        loss = module.losses((x_0, self.y), g, add_noise).total
        self.scaler.scale(loss).backward()
        self.steps += 1
        module.update(self.optimizer, self.scaler, self.clip, self.steps)
        return loss.detach()

    def by_philox(
        self, words: tuple[int | str, ...], x_0: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_t and target with the noise that native backends draw."""
        samples = torch.arange(len(x_0), device=x_0.device)
        eps = philox.normal(key(*words), samples, 0, tuple(x_0.shape[1:]))
        return noised(x_0, t, eps, self.module.schedule, self.module.objective)

    def again(self, start: DDPM) -> Tensor:
        """The loss of the last of a few steps from the weights of `start`."""
        self.module.load_state_dict(start.state_dict())
        self.begin()
        for _ in range(ALIKE - 1):
            self(alike=True)
        return self(alike=True)


@dataclass(frozen=True, eq=False)
class Training:
    """Everything about a step but the backend and the precision."""

    subject: NetUnderTest
    batch_size: int

    def module(self, backend: Choice, precision: Choice) -> DDPM:
        device = device_of(self.subject.trained.net)
        own = replace(
            self.subject.options,
            backend=backend.node,
            precision=precision.node,
            timesteps=DictConfig(UNIFORM),
        )
        module = build_module(own, build_precision(own.precision, device)).to(device)
        assert isinstance(module, DDPM)
        weights = self.subject.trained.net.state_dict()
        module.net.load_state_dict(weights)
        module.ema.load_state_dict(weights)
        return module

    def steps(self, backend: Choice, precision: Choice) -> Steps:
        limit = self.subject.options.trainer.gradient_clip_val
        return Steps(self.module(backend, precision), limit, *self.batch())

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """Random numbers: what is in a batch does not change what a step costs."""
        own, device = self.subject.options, device_of(self.subject.trained.net)
        g = generator("cpu", own.seed, "benchmark")
        x_0 = torch.rand(self.batch_size, *own.net.shape, generator=g) * 2 - 1
        layout = Layout.of_net(own.net)
        y = torch.arange(self.batch_size) % layout.num_classes if layout.num_classes else None
        if layout.by_rows:
            y = torch.zeros(self.batch_size, layout.width)
        return x_0.to(device), None if y is None else y.to(device)

    def judge(self, rows: Sequence[Row]) -> list[Fidelity]:
        """Losses after the same steps, and how far they are from the first row's."""
        start = self.module(EAGER, FP32)
        runs = [row.run for row in rows]
        losses = [run.again(start).item() if isinstance(run, Steps) else None for run in runs]
        first = losses[0]
        assert first is not None
        return [
            {} if loss is None else {"loss": loss, "loss_difference": abs(loss / first - 1)}
            for loss in losses
        ]


def contests(
    subject: NetUnderTest,
    batch_sizes: Sequence[int],
    backends: Sequence[Choice | str],
    precisions: Sequence[Choice],
) -> list[Contest]:
    """One for each batch size; the first row is eager in float32."""
    known = [backend for backend in backends if isinstance(backend, Choice)]
    if len(known) < len(backends) or subject.exported:
        raise ConfigError("mode=train: an exported file cannot be trained; leave it out")
    pairs = {(b.text, p.text): (b, p) for b, p in [(EAGER, FP32), *product(known, precisions)]}
    made = []
    for size in batch_sizes:
        work = Training(subject, size)
        rows = [Contestant(*names, partial(work.steps, *pair)) for names, pair in pairs.items()]
        title = f"training step, batch {size}"
        made.append(Contest(title, {"batch_size": size}, size, rows, work.judge))
    return made

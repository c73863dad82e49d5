"""A training without Lightning, step by step, for what times it or looks at it."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddiff.build import build_precision
from ddiff.config.options import Train
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.diffusion.timesteps.base import Gradient, TimestepSampler
from ddiff.system.devices import device_for
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules import DDPM

LOOK_AHEAD = 1000  # batches over which scorings are counted


class Turns:
    """A training without Lightning: what the trainer does, in the same order."""

    def __init__(self, training: Sequence[str] | Train, data: Any = None) -> None:
        """`training`: its options, or their words. `data`: what they build, if it is there."""
        options = training if isinstance(training, Train) else train_options(*training)
        began = time.perf_counter()
        device = device_for(options.trainer.accelerator)
        data = build(options.data) if data is None else data
        data.prepare_data()
        data.setup("fit")
        fill_in_data_facts(options, data)
        self.batches = iter(data.train_dataloader())
        first = self.on(device, next(self.batches))
        self.load = time.perf_counter() - began
        began = time.perf_counter()
        self.recipe_steps = options.budget.max_steps
        self.device, self.precision = device, build_precision(options.precision, device)
        self.module = build_module(options, self.precision).to(device)
        self.optimizer = self.module.make_optimizer()
        self.accumulate = options.trainer.get("accumulate_grad_batches", 1)
        self.clip = options.trainer.get("gradient_clip_val")
        scaling = self.precision.needs_scaling
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaling)
        self.done = 0
        self.step(first)
        self.first = time.perf_counter() - began

    def step(self, batch: Any = None) -> None:
        """An optimiser step, its micro-batches and the average of the weights included."""
        module = self.module
        self.precision.prepare()
        for _ in range(self.accumulate):
            batch = batch or self.on(self.device, next(self.batches))
            found: Any = module.training_step(batch, module.batches_seen)
            loss = found["loss"]
            self.scaler.scale(loss / self.accumulate).backward()
            batch = None
        self.done += 1
        module.update(self.optimizer, self.scaler, self.clip, self.done)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def scoring(self) -> tuple[float, float]:
        """Seconds of one measurement of gradient norms, and how many of them a step has."""
        if not isinstance(self.module, DDPM):
            return 0.0, 0.0
        asked, calls = count_scorings(self.module.timesteps, LOOK_AHEAD)
        if asked is None:
            return 0.0, 0.0
        batch = self.on(self.device, next(self.batches))
        seconds = []
        for number in range(3):  # the first one compiles
            began = time.perf_counter()
            self.module.mean_norms(batch, (number,), *asked)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - began)
        return min(seconds), calls / LOOK_AHEAD * self.accumulate

    @torch.no_grad()
    def forward(self) -> float:
        """Seconds of the averaged net for a sample."""
        if not isinstance(self.module, DDPM):
            return 0.0
        x, y = self.on(self.device, next(self.batches))
        t, net = torch.ones(len(x), dtype=torch.int64, device=self.device), self.module.ema
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            self.module.predictor(net)(x, t, self.module.labels(y)).sum().item()
            seconds.append(time.perf_counter() - began)
        return min(seconds) / len(x)

    def state_bytes(self) -> int:
        held = [s for state in self.optimizer.state.values() for s in state.values()]
        tensors = [*self.module.state_dict().values(), *filter(torch.is_tensor, held)]
        return sum(tensor.nbytes for tensor in tensors)

    @staticmethod
    def on(device: torch.device, batch: Any) -> Any:
        return tuple(part.to(device) if torch.is_tensor(part) else part for part in batch)


def count_scorings(
    timesteps: TimestepSampler, batches: int
) -> tuple[tuple[Tensor, Gradient] | None, int]:
    """Return what a sampler asks to have measured, and how often in so many batches."""
    asked: list[tuple[Tensor, Gradient]] = []

    def norms(t: Tensor, of: Gradient) -> Tensor:
        asked.append((t, of))
        return torch.ones(len(t), device=t.device)

    sampler = copy.deepcopy(timesteps)
    for batch in range(batches):
        sampler.refresh(norms, batch)
    return (asked[0] if asked else None), len(asked)

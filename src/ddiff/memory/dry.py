"""A training step, a validation and a sampling without data and without arithmetic."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddiff.build import build_guidance, build_plan
from ddiff.config.options import Evaluation, Pictured, Train
from ddiff.diffusion import Plan
from ddiff.memory.tally import Peak, Tally
from ddiff.nets.conditions import Layout
from ddiff.sampling.conditions import labels_for
from ddiff.sampling.generation import in_training
from ddiff.training.modules import DDPM, Learner
from ddiff.training.modules.learner import Batch

GRANULE = {"cuda": 512}  # bytes: c10/cuda/CUDACachingAllocator.h, kMinBlockSize


def predicted(options: Train, module: Learner, device: torch.device) -> list[Peak]:
    """The peaks of training, validation, sampling and evaluation of `module` on `device`.

    `options` are a run's, the data's facts filled in. The operations are the real ones, on tensors
    that have sizes and no content (FakeTensor), so it takes next to no memory.
    """
    tally = Tally(GRANULE.get(device.type, 1))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    module, plan = _without_content(module, device, fake), plan_of(options, module)
    if isinstance(module, DDPM):
        _look_up_tables(module, device)
    with torch.random.fork_rng(), fake, _Values():
        drive(options, module, plan, _batch(options, device), tally)
    return tally.peaks()


def _look_up_tables(module: DDPM, device: torch.device) -> None:
    """Lets schedule and objective keep their tables now: they are small, and hold real numbers."""
    t = torch.ones(1, dtype=torch.int64, device=device)
    module.schedule.signal_and_noise(t, torch.zeros(1, device=device))
    module.objective.weights_at(module.schedule, t)


def drive(options: Train, module: Learner, plan: Plan | None, batch: Batch, tally: Tally) -> None:
    """Go through the phases of a run with a module, on one batch.

    Two things differ from a real run: the gradient scaler of float16 (a few numbers) is left out,
    and compiled nets count as eager.
    """
    device = batch[0].device
    tally.name("weights", [*module.parameters(), *module.buffers()])
    tally.name("averaged weights", [*module.ema.parameters(), *module.ema.buffers()])
    tally.name("batch", [value for value in batch if value is not None])
    with tally, torch.compiler.set_stance("force_eager"):
        if device.type == "cpu":  # the loader is one batch ahead, in the same memory
            ahead = [torch.empty_like(value) for value in batch if value is not None]
            tally.name("batch", ahead)
        tally.begin("training")
        step = Step(options, module, batch, tally)
        for _ in range(2):
            step(min(2, step.parts))
        if options.trainer.limit_val_batches != 0:
            tally.begin("validation")
            with torch.no_grad():
                module.on_validation_epoch_start()
                module.validation_step(batch, 0)
        if plan:
            for phase, drawn in _samplings(options):
                tally.begin(phase)
                _sample(options, module, plan, drawn, device, tally)
    del step


class Step:
    """A step of the optimiser on one batch, in Lightning's order. The first makes its state."""

    def __init__(
        self, options: Train, module: Learner, batch: Batch, tally: Tally | None = None
    ) -> None:
        module.trainer = _Alone()  # pyright: ignore[reportAttributeAccessIssue]
        module.log = module.log_dict = _silent  # pyright: ignore[reportAttributeAccessIssue]
        self.options, self.module, self.batch, self.tally = options, module, batch, tally
        self.optimizer = module.configure_optimizers()["optimizer"]
        self.parts = options.trainer.accumulate_grad_batches

    def __call__(self, parts: int) -> None:
        """`parts` micro-batches: more than two take no more memory than two."""
        for part in range(parts - 1):
            self._micro_batch(part == 0)
        self.module.optimizer_step(0, 0, self.optimizer, lambda: self._last(parts == 1))
        state = [v for v in tree_leaves(dict(self.optimizer.state)) if torch.is_tensor(v)]
        self._name("optimiser", state)

    def _last(self, first: bool) -> None:
        self._micro_batch(first)
        clip = self.options.trainer.gradient_clip_val
        self.module.configure_gradient_clipping(self.optimizer, clip)

    def _micro_batch(self, first: bool) -> None:
        outputs: Any = self.module.training_step(self.batch, 0)
        if first:
            self.optimizer.zero_grad()  # the last step's gradients live through the forward pass
        (outputs["loss"] / self.parts).backward()
        gradients = [p.grad for p in self.module.net.parameters() if p.grad is not None]
        self._name("gradients", gradients)

    def _name(self, kind: str, tensors: list[Tensor]) -> None:
        if self.tally:
            self.tally.name(kind, tensors)


def _samplings(options: Train) -> Iterator[tuple[str, Pictured | Evaluation]]:
    yield "sampling", options.sampling
    if options.evaluation.every:
        yield "evaluation", options.evaluation


def _sample(
    options: Train,
    module: Learner,
    plan: Plan,
    drawn: Pictured | Evaluation,
    device: torch.device,
    tally: Tally,
) -> None:
    """One batch of samples by the averaged net."""
    assert isinstance(module, DDPM)
    y = labels_for(options.sampling.y, drawn.num_samples, options.net.num_classes)
    if (layout := Layout.of_net(options.net)).by_rows:
        y = _told(layout, drawn.num_samples, device)
    size = min(drawn.batch_size, drawn.num_samples)
    generation = in_training(module, options, plan)
    if device.type == "cpu":  # elsewhere they leave the device
        made = torch.empty(drawn.num_samples, *options.net.shape)
        tally.name("samples", [made])
    generation.batch(range(size), None if y is None else y[:size])


def plan_of(options: Train, module: Learner) -> Plan | None:
    """The first two steps of a run's solver, one in the middle, its last; None: no samples."""
    if not isinstance(module, DDPM):
        return None
    # its tables are made here, where tensors have content
    plan = build_plan(options.solver, module.schedule).guided_by(build_guidance(options.guidance))
    n = len(plan)
    kept = sorted({0, min(1, n - 1), n // 2, n - 1})
    names = ("x", "x_0", "x_0_previous", "noise", "x_0_before", "weight")
    columns = zip(names, (*plan.coefficients, plan.weights), strict=True)
    rows = {name: column[kept] for name, column in columns}
    return replace(plan, times=plan.times[[*kept, n]], **rows)


def _batch(options: Train, device: torch.device) -> Batch:
    size = options.data.batch_size
    x_0 = torch.empty(size, *options.net.shape, device=device)
    return x_0, _told(Layout.of_net(options.net), size, device)


def _told(layout: Layout, size: int, device: torch.device) -> Tensor:
    """Return conditions of so many samples; labels where a net is told nothing."""
    if layout.by_rows:
        return torch.zeros(size, layout.width, device=device)
    return torch.zeros(size, dtype=torch.int64, device=device)


def _without_content(module: Learner, device: torch.device, fake: FakeTensorMode) -> Learner:
    """A copy on `device` whose parameters and buffers are fake."""

    def empty(tensor: Tensor) -> Tensor:
        with fake:
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
            )

    memo: dict[int, Any] = {id(buffer): empty(buffer) for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(empty(parameter), parameter.requires_grad)
    module = copy.deepcopy(module, memo)
    module._device = device
    return module


class _Values(TorchDispatchMode):
    """Tables of schedules and solvers stay real, for code branches on them; a number asked of a
    tensor without content is 0."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        fake = any(isinstance(v, FakeTensor) for v in tensors)
        if fake and func is torch.ops.aten._local_scalar_dense.default:
            return 0
        if tensors and not fake:
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Alone:
    """Stand-in for a trainer, with the attributes that a module reads."""

    world_size, global_rank, global_step = 1, 0, 1


def _silent(*args: Any, **kwargs: Any) -> None:
    """Logs nothing."""

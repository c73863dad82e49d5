"""Scores of timesteps: how much every noise level moves a net, measured batch by batch.

They are kept in a file.
"""

import shlex
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddiff.artifacts.trained import Trained
from ddiff.build import build, build_precision
from ddiff.config.options import Importance
from ddiff.config.trees import origin
from ddiff.data import Data
from ddiff.diffusion.timesteps import PrecomputedTopK, effective_sample_size
from ddiff.diffusion.timesteps.bins import Bins
from ddiff.diffusion.timesteps.topk import best, how_many
from ddiff.system.console import console, progress, show_table
from ddiff.system.devices import device_for
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import check_outputs, write_json
from ddiff.system.random import generator
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules import DDPM
from ddiff.training.modules.ddpm import Batch

Kind = Literal["exact", "last_layer", "proxy"]
KINDS = {
    "exact": "gradient norm",
    "last_layer": "gradient norm of the last layer",
    "proxy": "weighted root of the loss",
}


@dataclass(frozen=True, eq=False)
class ScoredNet:
    """The net whose timesteps are scored, in its module, and the data it learns from."""

    module: DDPM  # on its device, the net in eval mode
    data: Data
    weights: str

    @classmethod
    def of(cls, options: Importance, trained: Trained | None = None) -> "ScoredNet":
        """The net of a validated config: untrained, as training would begin, or that of a run.

        Fills in the facts of the data. Raises for what would only show after the measurement.
        """
        check_numbers(options)
        path = score_file(options)
        check_outputs([path, path.with_suffix(".png")], options.overwrite)
        device = device_for(options.accelerator)
        options.data.batch_size = options.batch_size
        data = build(options.data)
        data.prepare_data()
        data.setup("fit")
        fill_in_data_facts(options, data, begun=trained is not None)
        module = build_module(options, build_precision(options.precision, device)).to(device)
        if not isinstance(module, DDPM):
            name = type(module).__name__.lower()
            raise ConfigError(f"module: {name} has no timesteps to score")
        weights = "fresh"
        if trained:
            module.net.load_state_dict(trained.net.state_dict())
            weights = f"{options.weights} of {trained.run_dir} at step {trained.step}"
        module.net.eval()
        how_many(options.k, Bins(module.schedule.T, options.bins).number)
        return cls(module, data, weights)


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of all bins [N] on each of R batches."""

    bins: Bins
    each: Tensor  # [R, N] float64
    seconds: float

    @property
    def mean(self) -> Tensor:
        return self.each.mean(0)

    @property
    def standard_error(self) -> Tensor:
        return self.each.std(0) / len(self.each) ** 0.5

    @property
    def relative_error(self) -> float:
        """Relative standard error of the least certain bin."""
        return float((self.standard_error / self.mean.clamp(min=1e-300)).max())

    def marked(self, k: int | float) -> Tensor:
        """1 where t is in one of the k best bins, else 0, [T]; as training will choose them."""
        return best(self.mean.float(), how_many(k, self.bins.number))[self.bins.of]

    def chosen(self, k: int | float) -> list[tuple[int, int]]:
        """First and last timestep of every stretch that the k best bins make up."""
        steps = torch.nn.functional.pad(self.marked(k), (1, 1)).diff()
        first, last = (steps > 0).nonzero()[:, 0] + 1, (steps < 0).nonzero()[:, 0]
        return list(zip(first.tolist(), last.tolist(), strict=True))


def measure(subject: ScoredNet, options: Importance) -> Scores:
    """Scores on one training batch after another, until the error of every bin is small enough."""
    module, started = subject.module, time.perf_counter()
    device = module.device
    bins = Bins(module.schedule.T, options.bins)
    t = bins.middles().to(device)
    scores = Scores(bins, torch.empty(0, bins.number, dtype=torch.float64), 0.0)
    console.print(
        f"{options.name}, {subject.weights}: {KINDS[options.score]} at {bins.number} noise levels, "
        f"{module.precision.dtype} on {device.type}"
    )
    with progress("measuring", options.max_batches) as meter:
        for n, (x_0, y) in enumerate(islice(subject.data.train_dataloader(), options.max_batches)):
            batch = x_0.to(device), None if y is None else y.to(device)
            g = generator(device, options.seed, "importance", n)
            found = score(module, batch, g, t, options.score).cpu().double()
            if not found.isfinite().all():
                bad = int(t[(~found.isfinite()).nonzero()[0, 0]])
                raise DdiffError(
                    f"the score at t={bad} is not a finite number "
                    f"({module.precision.dtype}); try precision=fp32"
                )
            each = torch.cat([scores.each, found[None]])
            scores = Scores(bins, each, time.perf_counter() - started)
            meter(n + 1, f"relative error {scores.relative_error:.3f}" if n else "")
            if n + 1 >= options.min_batches and scores.relative_error <= options.relative_error:
                break
    return scores


def score(module: DDPM, batch: Batch, g: torch.Generator, t: Tensor, kind: Kind) -> Tensor:
    """Scores of t [N] on one batch, [N]: all its samples at t[n], with the same noise.

    exact, last_layer: || d/dtheta w_t mean_b L_b ||; proxy: w_t mean_b sqrt(L_b).
    """
    if kind != "proxy":
        return module.gradient_norms(batch, g, t, kind)
    losses = module.losses_at(batch, g)
    with torch.no_grad():
        means = [losses(module.net, at).sqrt().mean() for at in t.unbind()]
    return torch.stack(means) * module.objective.weights_at(module.schedule, t)


def check_numbers(options: Importance) -> None:
    """Raises where two options do not go together."""
    if options.min_batches > options.max_batches:
        raise ConfigError(
            f"min_batches: {options.min_batches} is more than max_batches, {options.max_batches}"
        )


def score_file(options: Importance) -> Path:
    path = Path(options.out)
    return path.with_suffix(".json") if path.suffix in ("", ".json", ".png") else path


def write(scores: Scores, subject: ScoredNet, options: Importance) -> None:
    """The file that timesteps=precomputed_topk reads, and a picture of it."""
    from ddiff.pages.plotting import score_picture
    from ddiff.pages.view import save_png

    path, chosen, T = score_file(options), scores.chosen(options.k), subject.module.schedule.T
    facts = {
        "weights": subject.weights,
        "kind": options.score,
        "T": T,
        "bins": scores.bins.number,
        "batches": len(scores.each),
        "batch_size": options.batch_size,
        "relative_error": scores.relative_error,
        "precision": subject.module.precision.dtype,
        "seed": options.seed,
        "k": options.k,
        "chosen": chosen,
    }
    mean, error = scores.mean.tolist(), scores.standard_error.tolist()
    write_json(path, {**facts, "origin": origin(options), "score": mean, "standard_error": error})
    grid = score_picture(
        f"{options.name}, {subject.weights}: {len(scores.each)} batches of {options.batch_size}",
        np.cumsum([0, *scores.bins.size.int().tolist()]),
        scores.mean.numpy(),
        scores.standard_error.numpy(),
        chosen,
        KINDS[options.score],
    )
    save_png(grid, path.with_suffix(".png"))


def report(scores: Scores, subject: ScoredNet, options: Importance, words: list[str]) -> None:
    """A table by tenths of t, and what to do next. `words`: the training's own options."""
    path, T = score_file(options), len(scores.bins.of)
    sampler, corrected = (
        PrecomputedTopK(subject.module.schedule, str(path), options.k, correct=correct)
        for correct in (False, True)
    )
    rows = []
    columns = (torch.arange(T) + 1, scores.mean[scores.bins.of], scores.marked(options.k))
    tenths = (x.tensor_split(10) for x in (*columns, T * sampler.law()))
    for t, values, share, p in zip(*tenths, strict=True):
        if len(t):
            cells = f"{values.mean():.4g}", f"{share.mean():.0%}", f"{p.mean():.2f}"
            rows.append([f"{t[0]}..{t[-1]}", *cells])
    show_table(["t", KINDS[options.score], "chosen", "p(t), 1 = uniform"], rows)
    console.print(
        f"sampling    effective sample size {effective_sample_size(sampler):.2f}, "
        f"{effective_sample_size(corrected):.2f} with timesteps.correct=true; "
        f"exploration {sampler.exploration():.2f}"
    )
    use = ["timesteps=precomputed_topk", f"timesteps.path={path}", f"timesteps.k={options.k}"]
    batches, reached = len(scores.each), scores.relative_error
    if reached > options.relative_error:
        console.print(
            f"not reached relative_error={options.relative_error:g} in max_batches={batches}; "
            f"it is {reached:.3g}: raise max_batches or batch_size"
        )
    console.print(
        f"measured    {batches} batches of {options.batch_size} in {scores.seconds:.1f} s, "
        f"relative error {reached:.3g}"
    )
    console.print(f"scores      {path}")
    console.print(f"picture     {path.with_suffix('.png')}")
    console.print(f"train       python -m ddiff.train {shlex.join([*words, *use])}")

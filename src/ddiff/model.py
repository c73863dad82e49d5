"""A trained net in Python: loaded from a run, a file or a folder, to sample from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig
from torch import nn

from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.trained import Trained
from ddiff.backends import Auto, Backend, Eager, device_of
from ddiff.build import build, build_guidance, build_precision
from ddiff.config.options import tree_of
from ddiff.diffusion import ClassifierFree, Guidance, Objective, Plan, Schedule, solvers
from ddiff.diffusion.guidance import guidance_from
from ddiff.diffusion.plans import learned
from ddiff.sampling.conditions import conditions_for, examples_of
from ddiff.sampling.generation import generation_by
from ddiff.sampling.given import given_arrays, in_latents, refuse_in_latents
from ddiff.system.errors import ConfigError, nearest

# what samples are asked to be
Asked = int | Sequence[int] | Mapping[str, Any] | Literal["auto", "each", "none"] | None
SOLVERS: dict[str, Callable[..., Plan]] = {  # every function that makes a plan
    name: function
    for name, function in vars(solvers).items()
    if getattr(function, "__annotations__", {}).get("return") is Plan
}


def load(
    source: str | Path,
    weights: Literal["ema", "net"] | float = "ema",
    accelerator: str = "auto",
    shape: Sequence[int] | None = None,
) -> "Model":
    """Load a trained model from a run, a checkpoint, an exported file or a folder of diffusers.

    - `source`: the folder of a run, a checkpoint, an exported file, or a folder of diffusers or
      MONAI.
    - `weights`: "ema", the averaged weights; "net", the raw weights of the last step; or the length
      of another average, such as 0.05, of a run that has kept power averages.
    - `accelerator`: "auto", "cpu", "gpu" or "mps".
    - `shape`: [C, *S] of a sample, for a folder that does not say it, such as MONAI's.

    Files are treated as untrusted: no pickle is executed, and a damaged file is refused.
    Raises `ddiff.system.errors.DdiffError` with one line that says what is wrong.
    """
    sides = None if shape is None else list(shape)
    return Model(Trained.load(str(source), weights, accelerator, sides))


class Model:
    """A trained net with its schedule and objective, made by `ddiff.load`."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained

    @property
    def net(self) -> nn.Module:
        """The net, frozen and on its device: (x [B, C, *S], t [B], y [B] or None) -> [B, C, *S]."""
        return self._trained.net

    @property
    def schedule(self) -> Schedule:
        """The noise schedule that the net was trained with."""
        return self._trained.schedule

    @property
    def objective(self) -> Objective:
        """The objective, which says what the net predicts."""
        return self._trained.objective

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample, [C, *S]."""
        return self._trained.shape

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None for a net without labels."""
        return self._trained.options.net.num_classes

    @property
    def step(self) -> int:
        """The number of optimiser steps that the net was trained for."""
        return self._trained.step

    @property
    def config(self) -> dict[str, Any]:
        """The options that the net was trained with, as in the run's config.yaml."""
        return tree_of(self._trained.options)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"<Model {self._trained.options.name}, {shape}, step {self.step}>"

    def sample(
        self,
        num_samples: int = 16,
        y: int
        | Sequence[int]
        | Mapping[str, Any]
        | Literal["auto", "each", "none"]
        | None = "auto",
        *,
        solver: str | Plan | None = None,
        num_steps: int | None = None,
        guidance: float | Guidance | Callable | None = None,
        seed: int = 0,
        batch_size: int = 32,
        clamp: float | None = 1.0,
        backend: Backend | None = None,
        from_image: np.ndarray | None = None,
        strength: float | None = None,
        inpaint: np.ndarray | None = None,
        upscale: int = 1,
        slices: int = 1,
        jumps: int = 0,
        posterior: int = 0,
        known_noise: float = 0.0,
        versions: int = 1,
    ) -> np.ndarray:
        """Draw samples, float32 [num_samples, C, *S] in [-1, 1].

        They equal the samples of `python -m ddiff.sample run=... seed=... solver=...`.

        - `y`: a label, a list of labels to repeat, "each" (equal shares), "none", or "auto": "each"
          if the net has labels, else "none". A net that is told other things takes a mapping, such
          as {"radius": [0.2, 0.3]}, {"text": "a three"} or {"mask": array}; what is left out is
          not given.
        - `solver`: a name in `ddiff.solvers` such as "dpmpp_2m", a file of `python -m ddiff.plan`
          (its name ends in .json), or a plan of your own; None takes the run's.
        - `num_steps`: steps of the solver, which are evaluations of the net; None takes the run's
          number, or the default of a solver given by name.
        - `guidance`: the weight of classifier-free guidance, or a callable of your own; None takes
          the run's.
        - `clamp`: bound on the absolute value of every estimate of x_0; None sets no bound.
        - `backend`: None takes the fastest that this machine can run (`ddiff.backends`).
        - `from_image`: what the samples are made from, [N, C, *S] in [-1, 1]: sample i from number
          i, again from the first after the last.
        - `strength`: how much of it is made anew, from 0 to 1, which is pure noise; None: 0.5, and
          1 with `inpaint`, `upscale` or `slices`.
        - `inpaint`: a mask [*S]; `from_image` is kept where it is 0.
        - `upscale`: `from_image` is [N, C, *S / upscale], and samples have its means.
        - `slices`: of volumes, `from_image` has every n-th slice alone, along one axis.
        - `jumps`: times that each step is made again, so that what is new agrees better with what
          is kept.
        - `posterior`: iterations of posterior guidance in each step, 5 or so, which serve the same
          purpose at a smaller cost.
        - `known_noise`: standard deviation of the noise in what is known; needs `posterior`.
        - `versions`: samples made of each of `from_image`, one after the other.
        """
        asked: dict[str, Any] = {
            "strength": strength,
            "upscale": upscale,
            "slices": slices,
            "jumps": jumps,
            "posterior": posterior,
            "known_noise": known_noise,
            "versions": versions,
        }
        if from_image is not None:
            refuse_in_latents(self._trained, {**asked, "inpaint": inpaint is not None or None})
        given = given_arrays(from_image, inpaint, self.shape, **asked)
        given = given and in_latents(given, self._trained)
        device = device_of(self.net)
        exported = isinstance(self.net, ArtifactNet)  # takes no backend: it runs as exported
        generation = generation_by(
            self._trained,
            self._plan(solver, num_steps),
            self._guidance(guidance),
            build_precision(self._trained.options.precision, device),
            Eager() if exported else backend or Auto().on(device),
            seed,
            clamp,
            y,
            given,
        )
        told = conditions_for(y, num_samples, generation.layout, examples_of(self._trained))
        batches = generation.batches(num_samples, batch_size, told)
        return np.concatenate([batch.cpu().numpy() for batch in batches])

    def _plan(self, solver: str | Plan | None, num_steps: int | None) -> Plan:
        if isinstance(solver, Plan):
            return solver
        steps = {} if num_steps is None else {"num_steps": num_steps}
        if solver is None:
            return build(DictConfig({**self._trained.options.solver, **steps}))(self.schedule)
        if solver.endswith(".json"):
            return learned(self.schedule, solver, num_steps)
        if solver not in SOLVERS:
            raise ConfigError(f"solver: there is no {solver!r}{nearest(solver, [*SOLVERS])}")
        return SOLVERS[solver](self.schedule, **steps)

    def _guidance(self, guidance: float | Guidance | Callable | None) -> Guidance:
        if guidance is None:
            return build_guidance(self._trained.options.guidance)
        if isinstance(guidance, int | float):
            return ClassifierFree(float(guidance))
        return guidance_from(guidance)

"""Training on the K timesteps with the largest gradients, with exploration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor

from ddiff.diffusion.schedules import Schedule
from ddiff.diffusion.timesteps.base import Gradient, GradientNorms, TimestepSampler
from ddiff.diffusion.timesteps.bins import Averages, Bins, Decay, Number
from ddiff.system.bounds import At, Count, Share
from ddiff.system.errors import ConfigError, DdiffError

Score = Literal["proxy", "calibrated", "exact", "last_layer"]


class OnlineTopK(TimestepSampler):
    """Sampler of the K bins of timesteps with the best scores, measured during training.

    p = (1 - epsilon) U{the K best} + epsilon U{1..T}; uniform until every bin has a score.

    `score` is one of:

    - `proxy`: a moving average of w sqrt(L). For a mean square loss L of weight w this is the
      gradient's norm at the net's output, up to a constant. It costs nothing.
    - `exact`: the norm of the gradient of the current batch's loss with respect to all parameters,
      for the middle of every bin, each `refresh_every` batches.
    - `last_layer`: as exact, but with respect to the parameters of the last layer only.
    - `calibrated`: the proxy, times the Jacobian's norm exact / proxy of every bin at the last
      refresh.

    `bins=null`, `score=exact`, `refresh_every=1` and `decay=0` is the original per-batch method.
    `correct=true` weights the loss by 1 / (T p): unbiased. Otherwise objective-changing.
    """

    jacobian: Tensor | None

    def __init__(
        self,
        schedule: Schedule,
        k: Annotated[int | float, At(above=0)] = 0.5,
        score: Score = "proxy",
        bins: Number = 50,
        epsilon: Share = 0.1,
        correct: bool = False,
        decay: Decay = 0.9,
        refresh_every: Count = 100,
    ) -> None:
        super().__init__(schedule)
        if score not in get_args(Score):
            names = ", ".join(get_args(Score))
            raise ConfigError(f"timesteps.score: {score!r} is not one of {names}")
        if refresh_every < 1:
            raise ConfigError(f"timesteps.refresh_every: {refresh_every} is less than 1")
        self.bins = Bins(self.T, bins)
        self.average = Averages(self.bins, decay)
        self.k = how_many(k, self.bins.number)
        self.epsilon, self.unbiased = exploring(epsilon, correct), correct
        measured: dict[Score, Gradient | None] = {
            "proxy": None, "calibrated": "exact", "exact": "exact", "last_layer": "last_layer"
        }  # fmt: skip
        self.measured: Gradient | None = measured[score]
        self.watches, self.refresh_every = score in ("proxy", "calibrated"), refresh_every
        ones = torch.ones(self.bins.number)
        self.register_buffer("jacobian", ones if score == "calibrated" else None)

    def refresh(self, norms: GradientNorms, batch: int) -> None:
        # gradients of an untrained net mislead: the first batch is scored only if every batch is
        if self.measured and (batch + 1) % self.refresh_every == 0:
            t = self.bins.middles()
            found, proxy = norms(t, self.measured), self.average.value
            if self.jacobian is None:
                self.average.add(t, found)
            else:
                self.jacobian = torch.where(proxy > 0, found / proxy, self.jacobian)

    def update(self, t: Tensor, losses: Tensor, weights: Tensor) -> None:
        self.average.add(t, weights * losses.sqrt())

    def law(self) -> Tensor:
        chosen = best(self._score(), self.k) * self.bins.size
        everything = self.bins.size / self.T
        mass = (1 - self.epsilon) * chosen / chosen.sum() + self.epsilon * everything
        return self.bins.law(torch.where(self.average.complete(), mass, everything))

    def _score(self) -> Tensor:
        value = self.average.value
        return value if self.jacobian is None else value * self.jacobian

    def scores(self) -> Tensor:
        return self._score()[self.bins.of]

    def exploration(self) -> Tensor:
        return torch.where(self.average.complete(), self.epsilon, 1.0)


class PrecomputedTopK(TimestepSampler):
    """Sampler of the K timesteps with the best scores in a file of `python -m ddiff.importance`.

    p = (1 - epsilon) U{the K best} + epsilon U{1..T}. The file is refused if its schedule,
    objective, net or data differ from this training's.

    `correct=true` weights the loss by 1 / (T p): unbiased. Otherwise objective-changing.
    """

    score: Tensor

    def __init__(
        self,
        schedule: Schedule,
        path: str,
        k: Annotated[int | float, At(above=0)] = 0.5,
        epsilon: Share = 0.1,
        correct: bool = False,
    ) -> None:
        super().__init__(schedule)
        self.path = path
        self.origin, score = read_scores(path)
        self.bins = Bins(self.T, len(score))
        self.k = how_many(k, len(score))
        self.epsilon, self.unbiased = exploring(epsilon, correct), correct
        self.register_buffer("score", score)

    def check(self, origin: Mapping[str, Any]) -> None:
        names = sorted(self.origin.keys() | origin.keys())
        different = [n for n in names if self.origin.get(n) != origin.get(n)]
        if different:
            reasons = [
                f"{n} is {self.origin.get(n)} there and {origin.get(n)} here" for n in different
            ]
            raise ConfigError(
                f"timesteps: the scores in {self.path} belong to another training: "
                f"{', '.join(reasons)}; measure them again with python -m ddiff.importance"
            )

    def law(self) -> Tensor:
        chosen = best(self.score, self.k) * self.bins.size
        mass = (1 - self.epsilon) * chosen / chosen.sum() + self.epsilon * self.bins.size / self.T
        return self.bins.law(mass)

    def scores(self) -> Tensor:
        return self.score[self.bins.of]

    def exploration(self) -> float:
        return self.epsilon


def best(scores: Tensor, k: int) -> Tensor:
    """Return a mask [N]: 1 for the K largest scores [N], else 0. Ties go to the earlier one."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return torch.zeros_like(scores).scatter(0, order[:k], 1.0)


def how_many(k: int | float, number: int) -> int:
    """Return the number of bins that `k` asks for: an int is a count, a float a share of `number`.

    Raises ConfigError.
    """
    count = max(1, round(k * number)) if isinstance(k, float) and 0 < k <= 1 else k
    if not isinstance(count, int) or not 1 <= count <= number:
        raise ConfigError(
            f"timesteps.k: {k} must be a whole number in 1..{number} (bins) "
            "or a fraction above 0.0 and up to 1.0"
        )
    return count


def exploring(epsilon: float, correct: bool) -> float:
    """Return epsilon; ConfigError unless it is a share, and above 0 if `correct`."""
    if not 0 <= epsilon <= 1 or (correct and epsilon == 0):
        raise ConfigError(
            f"timesteps.epsilon: {epsilon} must lie in 0..1"
            + (", above 0 where correct=true weights every timestep" if correct else "")
        )
    return epsilon


def read_scores(path: str) -> tuple[dict[str, Any], Tensor]:
    """Read a file of scores: (options, scores [N]).

    The options are those of the training that the scores were measured for. Raises DdiffError.
    """
    file = Path(path)
    if file.exists() and not file.is_file():  # opening a pipe would wait for a writer
        raise DdiffError(f"timesteps.path: {path} is not a file")
    try:
        content = json.loads(file.read_text())
        origin, score = content["origin"], torch.tensor(content["score"], dtype=torch.float32)
    except FileNotFoundError:
        raise ConfigError(
            f"timesteps.path: there is no {path}; python -m ddiff.importance writes one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DdiffError(f"timesteps.path: {path} is not a file of scores: {error}") from error
    if score.dim() != 1 or len(score) < 1 or not bool((score >= 0).all() & score.isfinite().all()):
        raise DdiffError(f"timesteps.path: the scores in {path} are not a list of numbers >= 0")
    return origin, score

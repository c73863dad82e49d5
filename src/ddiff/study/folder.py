"""Files of a study's folder. Nothing here needs torch.

study.json                   the plan, the steps and the costs of each training
costs.json, calibration/     what steps cost
classifier/                  a run, where figures by features need one
<training>/seed_0/           a run, with trial.json, figures/<step>.json and log.txt
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddiff.system.files import read_json

MARK = "study.json"  # the file by which a folder is known as that of a study
TASK = "trial.json"  # in a run: what is to be done
FAILURE = "failure.json"  # in a run: why it has failed


@dataclass(frozen=True)
class Cost:
    """Seconds of the parts of one training."""

    step: float  # median of an optimiser step, without scoring
    start: float  # building, compiling and all else that makes the first step longer
    scoring: float  # of one measurement of gradient norms
    scorings: float  # of these in a step, on average
    load: float  # importing and reading the data, which is not charged
    forward: float  # of the net, for a sample
    state_bytes: float  # of a checkpoint
    recipe_steps: float  # of the training, if the study does not say how many

    @property
    def per_step(self) -> float:
        return self.step + self.scoring * self.scorings

    def scaled(self, factor: float) -> "Cost":
        """The cost on a machine that takes so many times as long."""
        times = {n: factor * getattr(self, n) for n in ("step", "start", "scoring", "forward")}
        return replace(self, **times)

    def steps_in(self, seconds: float) -> int:
        """The number of steps for which this time is enough; at least 1."""
        return max(1, int((seconds - self.start) / self.per_step))


@dataclass(frozen=True)
class Trial:
    """One training with one seed, in its folder."""

    training: str
    seed: int
    folder: Path
    steps: tuple[int, ...]  # of every rung; the last one is the end

    @property
    def name(self) -> str:
        return f"{self.training} seed {self.seed}"

    def found(self, rung: int) -> dict[str, Any] | None:
        """Return what was found at a rung; None where it is not there yet."""
        return read_json(self.folder / "figures" / f"{self.steps[rung]:06d}.json") or None

    @property
    def failure(self) -> str | None:
        return read_json(self.folder / FAILURE).get("why")

    def step_now(self) -> int:
        """The step that the training has told last, by its log or by its figures."""
        reached = int(read_json(self.folder / "metrics.json").get("step") or 0)
        log = self.folder / "log.txt"
        if not log.is_file():
            return reached
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4000))
            said = re.findall(rb"training (\d+)/", file.read())
        return max(reached, int(said[-1]) if said else 0)

    def measured(self, rung: int) -> list[str]:
        """The variants whose samples were measured at the step of a rung."""
        slugs = read_json(self.folder / TASK).get("slugs", {})
        made = self.folder / "evaluations"
        step = f"{self.steps[rung]:06d}"
        return [name for name, slug in slugs.items() if (made / f"{slug}_{step}.json").is_file()]

"""Phases that only Lightning's loop knows: data, backward, optimiser and callbacks."""

from functools import cache

from lightning.pytorch.profilers import Profiler

from ddiff.profiling.timeline import OTHER, Timeline
from ddiff.system.phases import STEP

CALLBACKS = {"Samples": "samples", "Evaluations": "evaluations", "Checkpoints": "checkpoints"}
# where steps and their parts begin or end: words of actions
TURNS = FETCH, BATCH, UPDATE, EPOCH, VALIDATION = (
    "train_dataloader_next", "run_training_batch", ".optimizer_step", "run_training_epoch",
    ".on_validation_",
)  # fmt: skip
HOOKS = {
    "train_dataloader_next": "data",
    "on_before_batch_transfer": "data",
    "batch_to_device": "data",
    "training_step": OTHER,  # what the module marks is inside
    "backward": "backward",
    "optimizer_step": "optimiser",  # the closure is inside: forward and backward are taken out
    "lr_scheduler_step": "optimiser",
}


class LoopProfiler(Profiler):
    """Turns Lightning's actions into phases of `timeline`. A step is an optimiser's: from the
    fetching of its first batch to that of the next step's."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self.timeline = timeline
        self._in_step = self._after_batch = self._stepped = self._validating = False

    def start(self, action_name: str) -> None:
        phase, turn = _known(action_name)
        if turn == FETCH:
            self._end_batch(self._stepped)
            if not self._in_step:
                self._in_step = True
                self.timeline.enter(STEP)
        elif turn == VALIDATION and self._in_step and not self._validating:
            self._validating = True
            self.timeline.enter("validation")
        if phase:
            self.timeline.enter(phase)

    def stop(self, action_name: str) -> None:
        phase, turn = _known(action_name)
        if phase:
            self.timeline.leave()
        if turn == BATCH:
            self._after_batch = True
            self.timeline.enter("logging")  # until the next batch is fetched
        elif turn == UPDATE:
            self._stepped = True
        elif turn == EPOCH:
            self._end_batch(stepped=True)
        elif self._validating and action_name.endswith("Strategy.on_validation_end"):
            self._validating = False
            self.timeline.leave()

    def _end_batch(self, stepped: bool) -> None:
        if self._after_batch:
            self.timeline.leave()
            self._after_batch = False
        if self._in_step and stepped:
            self.timeline.leave()
            self._in_step = self._stepped = False


@cache
def _known(action: str) -> tuple[str | None, str | None]:
    """The phase of an action and the turn that it is, each None where it is none."""
    return phase_of(action), next((turn for turn in TURNS if turn in action), None)


def phase_of(action: str) -> str | None:
    """`[Strategy]SingleDeviceStrategy.backward` -> `backward`; None: of the phase around it."""
    owner, _, hook = action.rpartition(".")
    if not owner.startswith("[Callback]"):
        return HOOKS.get(hook)
    if hook not in ("on_train_batch_start", "on_train_batch_end"):
        return None
    return CALLBACKS.get(owner.removeprefix("[Callback]"), "logging")

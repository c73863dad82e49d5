"""Lightning's actions as phases, against a trainer's own order of them."""

import pytest

from ddiff.profiling.loop import LoopProfiler, phase_of


class Heard:
    """Writes down what a timeline would be told, as text: `(step(data)(other(forward)))`."""

    def __init__(self):
        self.text = ""

    def enter(self, name):
        self.text += f"({name}"

    def leave(self):
        self.text += ")"


def play(profiler, *names):
    """Each name is an action; a tuple holds what runs inside it."""
    for name in names:
        name, inside = name if isinstance(name, tuple) else (name, ())
        with profiler.profile(name):
            play(profiler, *inside)


FETCH = "[_TrainingEpochLoop].train_dataloader_next"
FORWARD = "[Strategy]SingleDeviceStrategy.training_step"
BACKWARD = ("[Strategy]SingleDeviceStrategy.backward", ("[Callback]Progress.on_before_backward",))
UPDATE = ("[LightningModule]DDPM.optimizer_step", (FORWARD, BACKWARD))
END = ("[Callback]Progress.on_train_batch_end", "[Callback]Checkpoints.on_train_batch_end")


def test_a_step_is_an_optimisers_with_all_its_batches():
    heard = Heard()
    profiler = LoopProfiler(heard)  # pyright: ignore
    small = (FETCH, ("run_training_batch", (FORWARD, BACKWARD)), END[0])
    large = (FETCH, ("run_training_batch", (UPDATE,)), *END)
    play(profiler, ("run_training_epoch", (*small, *large, *large)))
    batch_end = "(logging(logging)"
    both = "(other)(backward)"
    assert heard.text == (
        f"(step(data){both}{batch_end})"
        f"(data)(optimiser{both}){batch_end}(checkpoints)))"
        f"(step(data)(optimiser{both}){batch_end}(checkpoints)))"
    )


def test_validation_is_one_pause_with_all_that_is_in_it():
    heard = Heard()
    profiler = LoopProfiler(heard)  # pyright: ignore
    validation = (
        "[LightningModule]DDPM.on_validation_model_zero_grad",
        "[Strategy]SingleDeviceStrategy.batch_to_device",
        ("[Callback]Checkpoints.on_validation_end", ("save_checkpoint",)),
        "[LightningModule]DDPM.on_validation_end",
        "[Strategy]SingleDeviceStrategy.on_validation_end",
    )
    play(profiler, *validation)  # outside a step, nothing
    heard.text = ""
    batch = (FETCH, ("run_training_batch", (UPDATE,)))
    play(profiler, ("run_training_epoch", (*batch, *validation, *batch)))
    step = "(step(data)(optimiser(other)(backward))(logging"
    assert heard.text == f"{step}(validation(data))))" + f"{step}))"


@pytest.mark.parametrize(
    ("action", "phase"),
    [
        ("[Strategy]DDPStrategy.batch_to_device", "data"),
        ("[LightningModule]DDPM.lr_scheduler_step", "optimiser"),
        ("[Callback]Resources.on_train_batch_start", "logging"),
        ("[Callback]Samples.on_train_batch_end", "samples"),
        ("[Callback]Progress.on_before_zero_grad", None),
        ("run_training_batch", None),
    ],
)
def test_actions_by_name(action, phase):
    assert phase_of(action) == phase

"""The phases of real training steps, against a clock that knows nothing of them."""

import time

import pytest
from hydra import compose, initialize_config_module
from lightning.pytorch import Callback

from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.trees import resolved
from ddiff.config.validation import validate
from ddiff.profiling.summary import phases_of, summary
from ddiff.profiling.timeline import HostClock, Timeline
from ddiff.system.devices import device_for
from ddiff.system.phases import listening
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.callbacks import StopOnNaN


class Stopwatch(Callback):
    """The moment of every start of a batch."""

    def __init__(self):
        self.moments = []

    def on_train_batch_start(self, *args):
        self.moments.append(time.perf_counter())


CASES = {
    "digits": ("experiment=digits_ddpm",),
    "digits, accumulated": ("experiment=digits_cfg", "trainer.accumulate_grad_batches=2",
                            "budget.batch_size=64"),
    "volumes": ("experiment=voxel_adaptive", "data.num=8", "budget.batch_size=2"),
}  # fmt: skip
SMALL = ("trainer=cpu", "trainer.limit_val_batches=0", "data.num_workers=0")


@pytest.mark.parametrize("case", CASES)
def test_phases_add_up_to_the_step_of_another_clock(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = compose("train", [*CASES[case], *SMALL, "budget.max_steps=8"])
    cfg = resolved(cfg)
    validate(cfg)
    data = build(cfg.data)
    data.prepare_data()
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    precision = build_precision(cfg.precision, device_for("cpu"))
    module = build_module(cfg, precision)
    timeline, watch = Timeline(HostClock(), timed=lambda n: 2 < n < 8), Stopwatch()
    callbacks = [watch, StopOnNaN()]
    trainer = build_trainer(cfg, tmp_path, False, callbacks, precision, timeline)
    with listening(timeline):
        trainer.fit(module, data)
    timeline.close()

    found = summary(phases_of(timeline.ledger))
    batches = cfg.trainer.accumulate_grad_batches
    between = watch.moments[7 * batches] - watch.moments[2 * batches]  # 5 steps
    phases = found["phases"]
    assert sum(p["ms"] for p in phases.values()) == pytest.approx(1e3 * between / 5, rel=0.05)
    assert phases["other"]["share"] < 0.05
    assert list(phases) == ["data", "timesteps", "noise", "forward", "loss", "backward",
                            "optimiser", "EMA", "logging", "other"]  # fmt: skip
    assert all(p["ms"] > 0 for p in phases.values())
    assert phases["forward"]["ms"] < phases["backward"]["ms"]
    assert phases["forward"]["share"] + phases["backward"]["share"] > 0.5

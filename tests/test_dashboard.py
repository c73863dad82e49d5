"""The first page of TensorBoard, and what a run logs and saves around it."""

import json
import re
import warnings
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext

from ddiff.callbacks.dashboard import layout
from tests.support.runs import TINY, checkpoint, ddiff_many, job, scalars

with warnings.catch_warnings(action="ignore"):  # of the HTML library that it brings along
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

DIGITS = ("experiment=digits_cfg", *TINY, "timesteps=online_topk", "timesteps.bins=5",
          "budget.save_every=4")  # fmt: skip
QUIET = ("experiment=classifier", "budget.batch_size=4", "budget.max_steps=8", "budget.log_every=1",
         "trainer.limit_val_batches=0", "budget.val_every=2", "budget.save_every=4")  # fmt: skip
EXAMINED = ("evaluation.every=4", "evaluation.num_samples=4", "metrics=[nearest_pairs]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("runs")
    jobs = [
        job("train", *DIGITS, *EXAMINED, "budget.max_steps=16", "run_dir=run", kill_at=13),
        job("train", "ckpt_path=run"),
        job("train", *QUIET, "run_dir=quiet"),
    ]
    done = ddiff_many(jobs, cwd)
    assert [d.status for d in done] == [-9, 0, 0], [d.err for d in done]
    return cwd


def served(run: Path) -> dict[str, dict[str, list[str]]]:
    """The layout as TensorBoard's own plug-in serves it: category, chart, patterns."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(run)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(run))
    plugin = CustomScalarsPlugin(TBContext(data_provider=provider, logdir=str(run)))
    found = json.loads(plugin.layout_impl(RequestContext(), ""))
    return {
        category["title"]: {c["title"]: c["multiline"]["tag"] for c in category["chart"]}
        for category in found["category"]
    }


def tags(run: Path) -> set[str]:
    return set(EventAccumulator(str(run / "tensorboard")).Reload().Tags()["scalars"])


@pytest.mark.parametrize("name", ["run", "quiet"])
def test_every_curve_has_one_place_and_every_place_a_curve(name: str, runs: Path) -> None:
    shown, logged = served(runs / name), tags(runs / name)
    patterns = [p for charts in shown.values() for chart in charts.values() for p in chart]
    assert "More" not in shown
    assert len(patterns) == len(logged) > 10
    for pattern in patterns:
        assert len([tag for tag in logged if re.match(pattern, tag)]) == 1, pattern
    assert all(any(re.match(pattern, tag) for pattern in patterns) for tag in logged)


def test_what_belongs_together_is_in_one_chart(runs: Path) -> None:
    shown = served(runs / "run")
    assert list(shown) == ["Quality", "Loss by timestep", "Timestep sampler", "Optimiser", "Speed",
                           "Memory"]  # fmt: skip
    assert shown["Quality"]["loss"] == ["train/loss$", "val/loss$"]
    assert len(shown["Loss by timestep"]["validation loss by tenth of t"]) == 4  # of 4 images
    assert len(shown["Timestep sampler"]["share of draws by tenth of t"]) == 10
    assert len(shown["Timestep sampler"]["score by tenth of t"]) == 10
    assert shown["Quality"]["PSNR, dB"] == [
        "quality/nearest_psnr$",
        "quality/nearest_psnr_mean$",
    ]
    assert len(shown["Memory"]["process, MiB"]) == 2


def test_a_resumed_run_has_one_layout_and_its_older_curves_in_it(runs: Path) -> None:
    assert len(list((runs / "run/tensorboard").glob("events*"))) > 1
    assert set(scalars(runs / "run", "train/loss")) == set(range(16))
    saved = checkpoint(runs / "run")["callbacks"]["Dashboard"]["tags"]
    assert set(saved) <= tags(runs / "run")
    assert "quality/nearest_ssim" in saved


def test_a_curve_that_nobody_knows_is_shown_too() -> None:
    found = layout(["mine/one", "quality/strange", "quality/fid"])
    assert found == {
        "Quality": {
            "FID": ["Multiline", ["quality/fid$"]],
            "strange": ["Multiline", ["quality/strange$"]],
        },
        "More": {"mine/one": ["Multiline", ["mine/one$"]]},
    }


def test_without_validation_a_due_save_is_made(runs: Path) -> None:
    """Validation would be due after every second step, and never comes."""
    assert checkpoint(runs / "quiet")["global_step"] == 8
    metrics = json.loads((runs / "quiet/metrics.json").read_text())
    assert metrics["step"] == 8
    assert not (runs / "quiet/checkpoints/best.ckpt").exists()


def test_the_summary_says_what_was_taken(runs: Path) -> None:
    metrics = json.loads((runs / "run/metrics.json").read_text())
    taken = metrics["resources"]
    assert set(taken) == {"step_seconds", "data_wait", "cpu_use_percent", "process_peak_mb",
                          "run_mb", "disk_free_gb"}  # fmt: skip
    assert taken["step_seconds"] * metrics["samples_per_second"] == pytest.approx(4, rel=1e-3)
    assert 0 <= taken["data_wait"] < 1
    assert 0 < taken["cpu_use_percent"] <= 101
    assert taken["process_peak_mb"] <= metrics["peak_memory_mb"] + 1

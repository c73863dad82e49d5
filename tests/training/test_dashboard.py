"""The first page of TensorBoard, and what a run logs and saves around it."""

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from torch.utils.tensorboard import SummaryWriter

from ddiff.training.callbacks.dashboard import CATEGORIES, layout
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


Shown = dict[str, dict[str, list[str]]]  # category, chart, patterns


def served(folder: Path) -> Shown:
    """The layout as TensorBoard's own plug-in serves it over all runs below `folder`; a chart that
    is there twice fails."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    plugin = CustomScalarsPlugin(TBContext(data_provider=provider, logdir=str(folder)))
    found = json.loads(plugin.layout_impl(RequestContext(), ""))
    shown: Shown = {}
    for category in found["category"]:
        charts = category.get("chart", [])
        shown[category["title"]] = {c["title"]: c["multiline"]["tag"] for c in charts}
        assert len(shown[category["title"]]) == len(charts), [c["title"] for c in charts]
    assert len(shown) == len(found["category"])
    return shown


def tags(run: Path) -> set[str]:
    return set(EventAccumulator(str(run / "tensorboard")).Reload().Tags()["scalars"])


def merged(*runs: Iterable[str], folder: Path) -> Shown:
    """What TensorBoard serves over runs that logged these tags."""
    for name, tags in zip("abcdef", runs, strict=False):
        with SummaryWriter(str(folder / name)) as board:
            board.add_custom_scalars(layout(tags))
    return served(folder)


@pytest.mark.parametrize("name", ["run", "quiet"])
def test_every_curve_has_one_place_and_every_place_a_curve(name: str, runs: Path) -> None:
    shown, logged = served(runs / name), tags(runs / name)
    assert "More" not in shown
    assert len(logged) > 10
    patterns = [p for charts in shown.values() for chart in charts.values() for p in chart]
    for tag in logged:
        assert len([p for p in patterns if re.match(p, tag)]) == 1, tag
    for pattern in patterns:
        assert any(re.match(pattern, tag) for tag in logged), pattern


def test_what_belongs_together_is_in_one_chart(runs: Path) -> None:
    shown, logged = served(runs / "run"), tags(runs / "run")

    def curves(category: str, chart: str) -> list[str]:
        (pattern,) = shown[category][chart]
        return sorted(tag for tag in logged if re.match(pattern, tag))

    assert list(shown) == list(CATEGORIES)
    assert curves("Quality", "loss") == ["train/loss", "val/loss"]
    assert len(curves("Loss by timestep", "validation loss by tenth of t")) == 4  # of 4 images
    assert len(curves("Timestep sampler", "share of draws by tenth of t")) == 10
    assert len(curves("Timestep sampler", "score by tenth of t")) == 10
    assert curves("Quality", "PSNR, dB") == [
        "quality/nearest_psnr",
        "quality/nearest_psnr_mean",
    ]
    assert len(curves("Memory", "process, MiB")) == 2


def test_runs_side_by_side_share_their_charts(runs: Path, tmp_path: Path) -> None:
    """A diffusion model and a classifier log different tags; no chart is there twice or lost."""
    both = served(runs)
    for name in ("run", "quiet"):
        for category, charts in served(runs / name).items():
            assert charts.items() <= both[category].items()

    first = ("train/loss", "val/accuracy")
    second = (*first, "timesteps_p/0", "memory/gpu_peak_mb")
    third = (*second, "timesteps_score/0", "quality/fid", "memory/gpu_reserved_mb")
    shown = merged(first, second, third, folder=tmp_path)
    assert [list(charts) for charts in shown.values()] == [
        ["loss", "accuracy", "FID"],
        [],
        ["share of draws by tenth of t", "score by tenth of t"],
        [],
        [],
        ["GPU, MiB"],
    ]


def test_no_figure_is_in_two_charts() -> None:
    """All names that metrics give their figures."""
    names = """
        fid kid precision recall accuracy classifier_score class_variation class_p psnr ssim
        psnr_mean nearest_psnr nearest_psnr_mean nearest_ssim held_out_copies
        nearest_train nearest_train_of_held_out closer_to_train validity
        sphere_iou radius_d radius_p centre_d centre_p solid_iou mmd_iou coverage_iou one_nn_iou
        mmd_chamfer coverage_chamfer one_nn_chamfer one_piece volume_d volume_p surface_d surface_p
        """
    patterns = [pattern for charts in CATEGORIES.values() for pattern in charts.values()]
    for name in names.split():
        tag = f"quality/{name}"
        assert len([p for p in patterns if re.fullmatch(p, tag)]) <= 1, name


def test_a_resumed_run_has_one_layout_and_its_older_curves_in_it(runs: Path) -> None:
    assert len(list((runs / "run/tensorboard").glob("events*"))) > 1
    assert set(scalars(runs / "run", "train/loss")) == set(range(16))
    made_with = json.loads((runs / "run/environment.json").read_text())
    assert "timesteps=online_topk" in made_with["overrides"]  # of the first command
    saved = checkpoint(runs / "run")["callbacks"]["Dashboard"]["tags"]
    assert set(saved) <= tags(runs / "run")
    assert "quality/nearest_ssim" in saved


def test_a_curve_that_nobody_knows_is_shown_too() -> None:
    found = layout(["mine/one", "quality/strange", "quality/fid"])
    assert {category: charts for category, charts in found.items() if charts} == {
        "Quality": {
            "FID": ["Multiline", ["quality/fid$"]],
            "strange": ["Multiline", ["quality/strange$"]],
        },
        "More": {"mine/one": ["Multiline", ["mine/one$"]]},
    }


FULL_DISK = """
import resource
import ddiff.train
from ddiff.training.callbacks import Checkpoints

original = Checkpoints.on_train_batch_end

def then_the_disk_is_full(self, trainer, *others):
    if trainer.global_step <= 20:  # no save after the first
        original(self, trainer, *others)
    if trainer.global_step == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # bytes of one file

Checkpoints.on_train_batch_end = then_the_disk_is_full
ddiff.train.main()
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_training_in_one_line(tmp_path: Path) -> None:
    """TensorBoard writes in a thread, whose own error would be a traceback."""
    options = ("experiment=digits_cfg", *TINY, "budget.max_steps=300", "budget.save_every=20",
               "budget.val_every=1000", "trainer=cpu", "run_dir=run")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *options], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "ddiff: cannot write run/tensorboard: File too large; the last checkpoint" in done.stderr
    assert "ckpt_path=run" in done.stderr
    assert checkpoint(tmp_path / "run")["global_step"] == 20


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

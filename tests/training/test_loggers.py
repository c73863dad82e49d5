"""Where figures go: TensorBoard, a CSV file, several at once, none."""

import csv
import json
from pathlib import Path

import pytest

from ddiff.pages.report.events import read_scalars
from ddiff.training.callbacks import (
    AtStart,
    Checkpoints,
    Dashboard,
    Progress,
    Samples,
    StopOnNaN,
    Timesteps,
    When,
    ordered,
)
from ddiff.training.loggers import CSV
from tests.support.runs import TINY, checkpoint, ddiff_many, differences, job, scalars

PARTS = ("resources", "timesteps", "samples", "evaluations", "dashboard")
RUN = ("experiment=digits_cfg", *TINY, "budget.max_steps=4", "budget.val_every=2")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("loggers")
    jobs = [
        job("train", *RUN, "logger=[tensorboard,csv]", "run_dir=both"),
        job("train", *RUN, "logger=csv", "run_dir=csv"),
        job("train", "ckpt_path=csv", "budget.max_steps=6"),
        job("train", *RUN, "logger=[]", "run_dir=none"),
        job("train", *RUN, "logger=wandb", "run_dir=wandb"),
        job("train", *RUN, "logger=[mlflow,csv]", "run_dir=mlflow"),
        job("report", "runs=[csv,both]", "out=report"),
        job("train", *RUN, "callbacks=early_stopping", "run_dir=stopped",
            "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=100",
            "budget.max_steps=40"),
        job("train", "experiment=digits_cfg", "+trainer.logger=false", "run_dir=x"),
        job("train", *RUN, "run_dir=bare", *(f"callbacks.{part}=null" for part in PARTS)),
        job("train", *RUN, "+callbacks.samples.generate=3", "run_dir=x"),
    ]  # fmt: skip
    names = (
        "both",
        "csv",
        "resumed",
        "none",
        "wandb",
        "mlflow",
        "report",
        "stopped",
        "wrong",
        "bare",
        "supplied",
    )
    return cwd, dict(zip(names, ddiff_many(jobs, cwd), strict=True))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_holds_what_tensorboard_holds(done) -> None:
    cwd, results = done
    assert results["both"].status == 0, results["both"].err
    found = rows(cwd / "both/metrics.csv")
    tags = {row["tag"] for row in found}
    assert {"train/loss", "val/loss", "train/lr", "speed/step_seconds"} <= tags
    for tag in tags:
        lines = {int(r["step"]) - 1: float(r["value"]) for r in found if r["tag"] == tag}
        assert lines == pytest.approx(scalars(cwd / "both", tag), rel=1e-6)


def test_a_resumed_run_adds_to_its_csv_and_reports_read_it(done) -> None:
    cwd, results = done
    assert results["resumed"].status == 0, results["resumed"].err
    assert not (cwd / "csv/tensorboard").exists()
    assert "tensorboard" not in results["csv"].out
    found = rows(cwd / "csv/metrics.csv")
    assert {row["process"] for row in found} == {"1", "2"}
    curve = read_scalars(cwd / "csv/tensorboard", ["train/loss"])["train/loss"]
    assert curve.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert (curve.seconds[1:] > curve.seconds[:-1]).all()
    last = [float(r["value"]) for r in found if r["tag"] == "train/loss"]
    assert curve.values.tolist() == last
    assert results["report"].status == 0, results["report"].err
    assert (cwd / "report_files/curves.png").is_file()


def test_a_line_that_a_kill_cut_short_costs_that_line_alone(tmp_path) -> None:
    logger = CSV(tmp_path)
    logger.log_metrics({"a": 1.5, "epoch": 0}, 0)
    logger.log_metrics({"a": 2.5}, 1)
    whole = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(whole[:-3])  # within the last value
    CSV(tmp_path).log_metrics({"a": 3.5}, 1)
    found = [(row["process"], row["step"], row["value"]) for row in rows(tmp_path / "metrics.csv")]
    assert found == [("1", "1", "1.5"), ("2", "2", "3.5")]


def test_without_a_logger_a_run_is_whole(done) -> None:
    cwd, results = done
    assert results["none"].status == 0, results["none"].err
    assert (cwd / "none/metrics.json").is_file()
    assert (cwd / "none/checkpoints/last.ckpt").is_file()
    assert not (cwd / "none/tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_is_not_installed_is_named_before_the_start(done, name) -> None:
    cwd, results = done
    try:
        __import__(name)
    except ImportError:
        assert results[name].status == 2
        assert results[name].err == (
            f"ddiff: logger={name}: needs {name}, which is not installed: pip install {name}\n"
        )
        assert not (cwd / name).exists()


def test_a_callback_of_lightning_s_joins_by_config(done) -> None:
    """A loss that must fall by 100 does not: the second validation ends the training."""
    cwd, results = done
    assert results["stopped"].status == 0, results["stopped"].err
    losses = scalars(cwd / "stopped", "val/loss")
    assert list(losses) == [1, 3]


def test_the_trainer_s_own_option_points_to_the_group(done) -> None:
    _, results = done
    assert results["wrong"].status == 2
    assert "trainer.logger: not an option here; say logger= and callbacks=" in results["wrong"].err


def test_a_run_s_own_parts_can_be_left_out_and_change_no_weight(done) -> None:
    cwd, results = done
    assert results["bare"].status == 0, results["bare"].err
    whole, bare = checkpoint(cwd / "both"), checkpoint(cwd / "bare")
    assert differences(whole["state_dict"], bare["state_dict"]) == []
    assert set(whole["callbacks"]) - set(bare["callbacks"]) == {"Timesteps", "Dashboard"}
    left = {path.name for path in (cwd / "both").iterdir()} - {"metrics.csv"}
    assert left - {path.name for path in (cwd / "bare").iterdir()} == {"samples", "timesteps.png"}
    assert "resources" not in json.loads((cwd / "bare/metrics.json").read_text())
    assert "timesteps   " in results["both"].out
    assert "timesteps   " not in results["bare"].out
    assert "callbacks.samples.generate: comes from ddiff" in results["supplied"].err


def test_callbacks_run_by_phase() -> None:
    phases = [c.when for c in (AtStart, StopOnNaN, Timesteps, Progress, Samples, Dashboard)]
    assert phases == sorted(phases)
    assert phases == [When.START, When.CHECK, When.MEASURE, When.END, When.PAUSE, When.SHOW]
    assert Checkpoints.when == When.SAVE  # after those whose states it saves

    class Mine(AtStart):
        when = When.PAUSE

    class Unknown:
        """A callback that knows no phases."""

    begin, mine, unknown = AtStart(print), Mine(print), Unknown()
    assert ordered([unknown, mine, begin]) == [begin, unknown, mine]  # pyright: ignore

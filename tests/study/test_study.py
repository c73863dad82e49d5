"""Studies as their users run them: whole, killed, raced, continued, refused."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ddiff.study.report import samples_of
from ddiff.study.results import read
from ddiff.system.files import lock
from tests.support.runs import ROOT, TINY, Done, ddiff, forked

pytestmark = pytest.mark.slow

BASE = " ".join(["experiment=digits_ddpm", *TINY]).replace("budget.val_every=8 ", "")
TWO = "cosine: schedule=cosine, linear: schedule=linear"
STEPS = 24
SLOTS = ("engine.slots=2", "engine.threads=1")
FORKS = ("~engine.threads", "engine.slots=2", "engine._target_=tests.support.forking.Forking")


def words(out: str, vary: str = TWO, *more: str) -> list[str]:
    return [f"base={BASE}", f"vary={{{vary}}}", "seeds=2", "equal=steps", f"budget={STEPS}",
            f"out={out}", *more]  # fmt: skip


def study(cwd: Path, *options: str) -> Done:
    """`python -m ddiff.study`, its runs forks of a process that has imported everything."""
    return forked("study", *options, *FORKS, cwd=cwd, DDIFF_TRUST="tests")


def found(folder: Path, training: str, seed: int, step: int = STEPS) -> dict[str, Any]:
    file = folder / training / f"seed_{seed}" / "figures" / f"{step:06d}.json"
    return json.loads(file.read_text())["variants"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two variants that run, one that fails on its way, and one that cannot begin."""
    place = tmp_path_factory.mktemp("study")
    vary = f"{TWO}, hot: optimizer.lr=1e38 trainer.gradient_clip_val=null, odd: net.groups=3"
    done = study(place, *words("whole", vary))
    assert done.status == 0, done.err + done.out
    (place / "out.txt").write_text(done.out)
    return place


def test_every_variant_is_a_row_with_a_verdict(whole: Path) -> None:
    results = json.loads((whole / "whole/results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["cosine", "linear", "hot", "odd"]
    for name in ("cosine", "linear"):
        assert rows[name]["step"] == STEPS
        for seed in (0, 1):
            metrics = json.loads((whole / f"whole/{name}/seed_{seed}/metrics.json").read_text())
            assert metrics["step"] == STEPS
            assert rows[name]["figures"]["val/loss"][str(seed)] == metrics["val/loss"]
    assert rows["linear"]["differences"]["val/loss"]["seeds"] == 2
    assert rows["hot"]["verdict"].startswith("failed: the loss is not a number at step ")
    assert "groups" in rows["odd"]["verdict"]
    assert "failed      hot seed 0: the loss is not a number" in (whole / "out.txt").read_text()


def test_what_it_writes_can_be_read(whole: Path) -> None:
    text = (whole / "whole/README.md").read_text()
    assert "| linear | 2 | 24 |" in text
    assert "not the same quantity" in " ".join(text.split())  # losses of two schedules
    assert f"'base={BASE}'" in text
    page = (whole / "whole/report.html").read_text()
    assert "Verdicts by val/loss" in page
    assert (whole / "whole/report_files/study.png").stat().st_size > 5000
    done = forked("report", "runs=whole", "out=again", cwd=whole)
    assert done.status == 0, done.err
    assert "## Verdicts by val/loss" in (whole / "again.md").read_text()
    assert "classifier" not in (whole / "again.md").read_text()


def test_a_report_and_a_second_start_repeat_nothing(whole: Path) -> None:
    logs = {p: p.stat().st_mtime_ns for p in (whole / "whole").glob("*/seed_*/log.txt")}
    plan = study(whole, *words("whole"), "plan")
    assert plan.status == 0, plan.err
    again = study(whole, *words("whole"), "seeds=2")
    assert again.status == 0, again.err
    assert "0 of 4 runs to do" in again.out
    report = study(whole, *words("whole"), "report", "publish=public")
    assert report.status == 0, report.err
    published = {p.name for p in (whole / "public").rglob("*") if p.is_file()}
    assert published == {"README.md", "results.json", "study.png", "curves.png", "samples.png"}
    assert {p: p.stat().st_mtime_ns for p in logs} == logs


def test_another_study_in_its_folder_is_refused(whole: Path) -> None:
    done = study(whole, *words("whole", TWO.replace("=linear", "=sigmoid")))
    assert done.status == 2
    assert "whole holds another study; give another out=" in done.err
    longer = study(whole, *words("whole"), "budget=30")
    assert longer.status == 2
    assert "holds a run of another study (steps 24, now 30)" in longer.err
    assert len((done.err + longer.err).strip().splitlines()) == 2


def test_a_misspelt_option_is_named(tmp_path: Path) -> None:
    done = study(tmp_path, *words("x"), "vray={a: schedule=linear}")
    assert (done.status, done.err) == (2, "ddiff: vray: no such option; did you mean 'vary'?\n")


def test_two_studies_in_one_folder_exclude_each_other(tmp_path: Path) -> None:
    holder = lock(tmp_path / "busy", "the study")
    done = study(tmp_path, *words("busy"))
    holder.release()
    assert done.status == 1
    assert f"the study busy is in use by process {os.getpid()}" in done.err


def test_a_study_that_is_killed_finds_the_same(whole: Path, tmp_path: Path) -> None:
    """Killed by SIGKILL in its middle: its runs save, and the second start continues them."""
    options = [*words("killed", TWO, "seeds=1"), *SLOTS]
    command = [sys.executable, "-m", "ddiff.study", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "killed"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 180
        while not list(folder.glob("*/seed_0/tensorboard")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert not list(folder.glob("*/seed_0/figures/*"))
    done = ddiff("study", *options, cwd=tmp_path)
    assert done.status == 0, done.err
    for training in ("cosine", "linear"):
        assert found(folder, training, 0) == found(whole / "whole", training, 0)


def test_a_race_pauses_losers_and_takes_one_up_again(whole: Path, tmp_path: Path) -> None:
    race = "race={rungs: [0.5], share: 0.5}"
    done = study(tmp_path, *words("race", TWO, race))
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "race/results.json").read_text())
    (loser,) = [row["name"] for row in results["rows"] if row["paused"]]
    (winner,) = {"cosine", "linear"} - {loser}
    halfway = {
        name: sum(
            found(tmp_path / "race", name, s, 12)[name]["figures"]["val/loss"] for s in (0, 1)
        )
        for name in (winner, loser)
    }
    assert halfway[winner] < halfway[loser]
    assert results["headline"].startswith(f"The race went to {winner}.")
    assert not (tmp_path / f"race/{loser}/seed_0/figures/000024.json").exists()
    again = study(tmp_path, *words("race", TWO, race.replace("0.5}", f"0.5, keep: [{loser}]}}")))
    assert again.status == 0, again.err
    for name in (winner, loser):
        for seed in (0, 1):
            assert found(tmp_path / "race", name, seed) == found(whole / "whole", name, seed)


def test_a_signal_ends_the_study_and_its_runs(tmp_path: Path) -> None:
    options = [*words("stopped"), "budget=100000", *SLOTS]
    with subprocess.Popen(
        [sys.executable, "-m", "ddiff.study", *options],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 180
        while not list(tmp_path.glob("stopped/*/seed_0/tensorboard")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.strip() == "ddiff: stopped by SIGTERM; the same command continues in stopped"
    assert list(tmp_path.glob("stopped/*/seed_0/checkpoints/last.ckpt"))


def test_ways_of_drawing_at_equal_evaluations(tmp_path: Path) -> None:
    """One training a seed; guidance takes two evaluations a step, so it gets half of the steps. A
    plan that is fitted is fitted to each net, for as many."""
    base = BASE.replace("digits_ddpm", "digits_cfg") + " budget.max_steps=8"
    quick = "plan.num_samples=8 plan.held_out=8 plan.solver.num_steps=8 plan.iterations=2"
    vary = (
        "{plain: guidance=none, guided: guidance=cfg guidance.scale=1, "
        f"learned: guidance=cfg guidance.scale=1 {quick}}}"
    )
    done = study(
        tmp_path, f"base={base}", f"vary={vary}", "seeds=2", "equal=evaluations", "budget=4",
        "decide=closer_to_train", "num_samples=20", "out=draws",
    )  # fmt: skip
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "draws/results.json").read_text())
    assert [row["evaluations"] for row in results["rows"]] == [4, 4, 4]
    assert len(list((tmp_path / "draws").glob("*/seed_*/checkpoints"))) == 2
    ways = found(tmp_path / "draws", "plain", 0, 8)
    sampling = [ways[name]["sampling"] for name in ("plain", "guided", "learned")]
    assert [one["num_steps"] for one in sampling] == [4, 2, 2]
    assert [one["evaluations"] for one in sampling] == [4, 4, 4]
    plans = [tmp_path / f"draws/plain/seed_{seed}/plans/learned_000008.json" for seed in (0, 1)]
    assert plans[0].read_text() != plans[1].read_text()
    drawn = [row for row in samples_of(read(tmp_path / "draws")) if row[1].samples.any()]
    assert [(name, len(some.samples)) for name, some in drawn] == [
        ("plain", 16), ("guided", 16), ("learned", 16)
    ]  # fmt: skip
    assert (tmp_path / "draws/report_files/samples.png").is_file()
    more = ["seeds=2", "equal=evaluations", "budget=4", "decide=closer_to_train", "num_samples=20",
            "vary={ddim: solver=ddim, heun: solver=heun}", "out=more", "trained=draws"]  # fmt: skip
    done = study(tmp_path, f"base={base}", *more)
    assert done.status == 0, done.err
    assert "taken       2 of 2 runs from draws" in done.out
    for seed in (0, 1):  # the same nets, trained once
        run = tmp_path / f"more/ddim/seed_{seed}"
        assert "ddiff.train" not in (run / "log.txt").read_text()
        theirs = tmp_path / f"draws/plain/seed_{seed}/checkpoints/last.ckpt"
        assert (run / "checkpoints/last.ckpt").read_bytes() == theirs.read_bytes()
    done = study(tmp_path, f"base={base} net.dropout=0.1", *more[:-2], "out=other", "trained=draws")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "trained: draws has no finished run of experiment=digits_cfg" in done.err


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")
def test_eight_trainings_on_ray_while_a_machine_is_lost(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one of which is killed: the study finds what the local one found."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    options = words("cluster", TWO, "seeds=4")
    options.remove("seeds=2")
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.ray_study", "found.json"]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as place:  # short, for sockets
        environment = {
            **os.environ, "RAY_TMPDIR": place, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"
        }  # fmt: skip
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    went = json.loads((tmp_path / "found.json").read_text())
    assert went["status"] == 0, went["out"]
    assert went["lost"] >= 1
    for failure in (tmp_path / "cluster").rglob("failure.json"):
        raise AssertionError(f"{failure}: {failure.read_text()} {went['out']}")
    for training in ("cosine", "linear"):
        assert len(list((tmp_path / f"cluster/{training}").glob("seed_*/figures/000024.json"))) == 4
        for seed in (0, 1):
            ours = found(tmp_path / "cluster", training, seed)
            assert ours == found(whole / "whole", training, seed)


def test_pictures_without_labels_are_decided_by_the_loss_unless_asked(tmp_path: Path) -> None:
    """A prepared study decides by FID, whose classifier needs labels."""
    done = forked("data", "data=digits", "out=photos", "num=40", cwd=tmp_path)
    assert done.status == 0, done.err
    for file in list((tmp_path / "photos").rglob("*.png")):
        file.rename(tmp_path / "photos" / f"{file.parent.name}_{file.name}")
    own = ("study=timesteps", "data=images", "data.root=photos", "data.size=8", "equal=steps",
           "budget=4", "seeds=1", "num_samples=8", "net=unet_tiny", *TINY[:5],
           "vary={uniform: timesteps=uniform, SpeeD: timesteps=speed}", "out=own")  # fmt: skip
    asked = study(tmp_path, *own, "decide=fid")
    assert asked.status == 1
    assert "decide: fid needs a classifier of these data" in asked.err
    assert "decide=val/loss" in asked.err
    done = study(tmp_path, *own)
    assert done.status == 0, done.err
    assert "val/loss decides, in place of fid" in done.out
    results = json.loads((tmp_path / "own/results.json").read_text())
    assert results["decide"] == "val/loss"
    assert [row["step"] for row in results["rows"]] == [4, 4]


def test_variants_may_be_configs_of_one_s_own(tmp_path: Path) -> None:
    """A net and a solver in a folder of YAML files, in training, calibration and drawing; a run
    that was paused finds them again, and a folder that was moved is no other study."""
    for group, name, text in (
        ("net", "mine", "defaults: [unet]\nchannels: [8, 8]\ngroups: 4\n"),
        ("solver", "mine", "defaults: [ddim]\nnum_steps: 3\n"),
    ):
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / f"own/{group}/{name}.yaml").write_text(text)
    base = BASE.replace("net.channels=[8,16] ", "").replace("solver.num_steps=2", "")
    words = [
        f"base={base}", "seeds=1", "equal=steps", "budget=4", "race={rungs: [0.5], share: 0.9}",
        "vary={tiny: 'net.channels=[8,16]', mine: net=mine solver=mine}",
        "decide=closer_to_train", "better=lower", "num_samples=10", "out=own_parts",
    ]  # fmt: skip
    done = study(tmp_path, "--config-dir", "own", *words)
    assert done.status == 0, done.err
    figures = found(tmp_path / "own_parts", "mine", 0, 4)["mine"]
    assert figures["sampling"]["num_steps"] == 3
    config = OmegaConf.load(tmp_path / "own_parts/mine/seed_0/config.yaml")
    assert config.net.channels == [8, 8]
    (tmp_path / "own").rename(tmp_path / "moved")
    again = study(tmp_path, "--config-dir", "moved", *words)
    assert again.status == 0, again.err
    assert "0 of 2 runs to do" in again.out
    published = json.loads((tmp_path / "own_parts/results.json").read_text())
    assert str(tmp_path) not in json.dumps(published)

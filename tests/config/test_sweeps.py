"""Sweeps go on where they were left, and one failed job does not end the others."""

import json
from pathlib import Path

import pytest

from tests.support.runs import TINY, checkpoint, ddiff, ddiff_many, differences, job

CONF = Path(__file__).parents[2] / "conf"
DIGITS = ("experiment=digits_ddpm", *TINY)
SWEEP = ("-m", *DIGITS, "budget.save_every=2", "budget.max_steps=4,8", "hydra.sweep.dir=sweep")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = [*SWEEP[:-1], "hydra.sweep.dir=whole"]
    jobs = [job("train", *whole), job("train", *SWEEP, kill_at=6), job("train", *SWEEP)]
    done = ddiff_many(jobs, tmp_path)
    assert [d.status for d in done] == [0, -9, 0], done[-1].err
    assert "job 0 is finished already" in done[2].out
    for number, steps in ((0, 4), (1, 8)):
        a, b = (checkpoint(tmp_path / sweep / str(number)) for sweep in ("whole", "sweep"))
        assert a["global_step"] == b["global_step"] == steps
        assert differences(a["state_dict"], b["state_dict"]) == []
        assert differences(a["optimizer_states"], b["optimizer_states"]) == []


@pytest.mark.slow
def test_hydra_s_mode_makes_a_sweep_too(tmp_path: Path) -> None:
    """From the command line, and from a config of one's own; those of ddiff do not set it."""
    own = tmp_path / "own/experiment"
    own.mkdir(parents=True)
    (own / "both.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /experiment/digits_ddpm\n"
        "hydra:\n  mode: MULTIRUN\n  sweep:\n    dir: by_file\n"
    )
    tiny = (*TINY, "budget.max_steps=1,2")
    jobs = [
        job("train", *DIGITS, *tiny, "hydra.mode=MULTIRUN", "hydra.sweep.dir=by_word"),
        job("train", "--config-dir=own", "experiment=both", *tiny),
    ]
    assert [d.status for d in ddiff_many(jobs, tmp_path)] == [0, 0]
    for sweep in ("by_word", "by_file"):
        assert [checkpoint(tmp_path / sweep / n)["global_step"] for n in "01"] == [1, 2]
    texts = [path.read_text() for path in CONF.rglob("*.yaml")]
    assert len(texts) > 50
    assert not any("MULTIRUN" in text for text in texts)


def test_a_finished_sweep_trains_nothing_again_and_keeps_its_place(tmp_path: Path) -> None:
    other = [word.replace("4,8", "4,12") for word in SWEEP]
    (first,) = ddiff_many([job("train", *SWEEP)], tmp_path)
    assert first.status == 0, first.err
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").rglob("*.*") if p.is_file()}
    again, another = ddiff_many([job("train", *SWEEP), job("train", *other)], tmp_path)
    assert again.status == 0, again.err
    assert again.out.count("is finished already") == 2
    assert another.status == 2
    (line,) = another.err.strip().splitlines()
    assert "sweep holds another sweep (" in line
    assert "budget.max_steps=4,8" in line
    same = ("multirun.yaml", ".lock")
    assert {
        p for p, when in files.items() if p.stat().st_mtime_ns != when and p.name not in same
    } == set()


def test_a_failed_job_is_named_and_does_not_end_the_others(tmp_path: Path) -> None:
    options = [*DIGITS, "budget.max_steps=2", "net.bounded=true", "objective=v,x0"]
    (done,) = ddiff_many([job("train", "-m", *options, "hydra.sweep.dir=sweep")], tmp_path)
    assert done.status == 2
    reason = "job 0 (objective=v): net.bounded=true keeps predictions between -1 and 1"
    assert done.err.startswith(f"ddiff: {reason}")  # when it happens
    end = done.err.strip().splitlines()[-2:]
    assert end[0] == "ddiff: 1 of 2 jobs of sweep failed:"
    assert end[1].startswith(reason)
    assert (tmp_path / "sweep/0/failure.txt").read_text().startswith(reason)
    assert checkpoint(tmp_path / "sweep/1")["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [("joblib", "hydra.launcher.n_jobs=2"), ("submitit_local", "hydra.launcher.cpus_per_task=1")],
    ids=lambda launcher: launcher[0],
)
def test_other_processes_train_the_same(launcher: tuple[str, str], tmp_path: Path) -> None:
    """One job of two fails: the other ends as it does alone, and the end says which one failed."""
    name, option = launcher
    options = [*DIGITS, "threads=1", "budget.max_steps=2"]
    sweep = ["net.bounded=true,false", f"hydra/launcher={name}", option, "hydra.sweep.dir=sweep"]
    done = ddiff("train", "-m", *options, *sweep, cwd=tmp_path, PYTHONWARNINGS="ignore")
    assert done.status == 2, done.err
    first, second = done.err.strip().splitlines()[-2:]
    assert first == "ddiff: 1 of 2 jobs of sweep failed:"
    assert second.startswith("job 0 (net.bounded=True): net.bounded=true keeps predictions")
    (alone,) = ddiff_many([job("train", *options, "run_dir=alone")], tmp_path)
    assert alone.status == 0, alone.err
    a, b = checkpoint(tmp_path / "sweep/1"), checkpoint(tmp_path / "alone")
    assert differences(a["state_dict"], b["state_dict"]) == []


@pytest.mark.slow
def test_optuna_finds_the_better_rate(tmp_path: Path) -> None:
    """A real sweep of four trials; what it optimises is what the runs measured."""
    options = [
        *DIGITS,
        "budget.max_steps=8",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=minimize",
        "hydra.sweeper.sampler.seed=1",
        "optimizer.lr=tag(log,interval(1e-5,1e-2))",
        "hydra.sweep.dir=sweep",
    ]
    done = ddiff("train", "-m", *options, cwd=tmp_path, PYTHONWARNINGS="ignore")
    assert done.status == 0, done.err
    found = [
        json.loads((tmp_path / f"sweep/{number}/metrics.json").read_text()) for number in range(4)
    ]
    losses = [metrics["val/loss"] for metrics in found]
    assert [metrics["optimized"]["value"] for metrics in found] == losses
    assert len(set(losses)) == 4
    text = (tmp_path / "sweep/optimization_results.yaml").read_text()
    assert f"best_value: {min(losses)}" in text


@pytest.mark.slow
def test_a_sweep_skips_what_another_has_finished(tmp_path: Path) -> None:
    """Runs of the same options anywhere below runs=; where they lie and are looked at is aside."""
    common = ("-m", *DIGITS, "budget.max_steps=4")
    jobs = [
        job("train", *common, "objective=v", "hydra.sweep.dir=runs/first"),
        job("train", *common, "objective=v,x0", "sweep.skip_finished=true",
            "budget.sample_every=2", "hydra.sweep.dir=runs/second"),
        job("train", *common, "objective=v", "seed=1", "sweep.skip_finished=true",
            "hydra.sweep.dir=runs/third"),
        job("train", *common, "objective=v", "hydra.sweep.dir=runs/fourth"),
    ]  # fmt: skip
    done = ddiff_many(jobs, tmp_path)
    assert [d.status for d in done] == [0] * 4, [d.err for d in done]
    assert "job 0 is finished already: runs/first/0" in done[1].out
    assert done[1].out.count("is finished already") == 1
    assert not (tmp_path / "runs/second/0/checkpoints").exists()
    assert checkpoint(tmp_path / "runs/second/1")["global_step"] == 4
    assert "is finished already" not in done[2].out  # another seed
    assert "is finished already" not in done[3].out  # nobody asked

"""Samples drawn in shards are those of one process, to the bit."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.artifacts.worlds import make_run
from tests.support.runs import ddiff, forked

MANY = ("run=run", "num_samples=2000", "batch_size=250", "solver.num_steps=2", "seed=4")
FEW = ("run=run", "num_samples=23", "batch_size=4", "solver=dpmpp_2m_sde", "solver.num_steps=2")
TWO = ("engine=local", "engine.slots=2", "engine.threads=1")
SAME = ("options", "net", "step", "spent", "first", "y_period", "y", "precision", "backend",
        "evaluations")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_run(folder / "run", "2D")
    return folder


def sample(place: Path, *options: str, status: int = 0) -> str:
    done = forked("sample", *options, cwd=place)
    assert done.status == status, done.err
    return done.err if status else done.out


def record(file: Path) -> dict:
    found = json.loads(file.read_text())
    return {name: found[name] for name in SAME}


@pytest.mark.slow
def test_two_slots_draw_what_one_process_draws(place: Path) -> None:
    sample(place, *MANY, "out=whole")
    sample(place, *MANY, "out=joined", *TWO)
    whole, joined = (np.load(place / f"{name}.npy") for name in ("whole", "joined"))
    assert whole.shape == (2000, 1, 8, 8)
    assert np.array_equal(whole, joined)
    assert record(place / "whole.json") == record(place / "joined.json")
    assert (place / "whole.png").read_bytes() == (place / "joined.png").read_bytes()
    assert not (place / ".joined.shards").exists()


def test_first_goes_on_where_another_command_ended(place: Path) -> None:
    whole = sample(place, *FEW, "out=few")
    assert "few.npy" in whole
    sample(place, *FEW, "num_samples=7", "first=16", "y_period=23", "out=end", "picture=false")
    few, end = (np.load(place / f"{name}.npy") for name in ("few", "end"))
    assert np.array_equal(few[16:], end)
    assert not (place / "end.png").exists()
    out = sample(place, *FEW, "num_samples=7", "first=7")
    assert "dpmpp_2m_sde2_w1.5_7_from7.npy" in out
    of_its_own = json.loads((place / "run/samples/dpmpp_2m_sde2_w1.5_7_from7.json").read_text())
    assert sorted(of_its_own["y"]) == [n * 10 // 7 for n in range(7)]


@pytest.mark.slow
def test_an_interrupted_command_draws_only_what_is_left(place: Path) -> None:
    """SIGTERM ends it after the first of four shards. The next has two slots for the rest, takes no
    shard of other samples, and does not draw the first one again: a mark in it stays."""
    some = (*FEW, "num_samples=131", "out=again")
    command = [sys.executable, "-m", "ddiff.sample", *some, *TWO, "engine.slots=1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=place, env=env, stderr=subprocess.PIPE, text=True)
    shards = place / ".again.shards"
    while not list(shards.glob("*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.communicate()[1] == "ddiff: stopped by SIGTERM, and so were the jobs\n"
    assert process.returncode == 143
    (first,) = shards.glob("*.npy")
    mark = np.load(first)
    assert len(mark) == 36
    mark[4, 0, 0, 0] = 0.123
    np.save(first, mark)
    sample(place, *FEW, "num_samples=8", "first=40", "seed=9", "out=.again.shards/40")
    beyond = ("first=128", "num_samples=8", "y_period=131", "out=.again.shards/128")
    sample(place, *FEW, *beyond, "picture=false")
    sample(place, *some, *TWO)
    sample(place, *some, "out=plain")
    again, plain = (np.load(place / f"{name}.npy") for name in ("again", "plain"))
    assert again[4, 0, 0, 0] == np.float32(0.123)
    again[4, 0, 0, 0] = plain[4, 0, 0, 0]
    assert np.array_equal(again, plain)


@pytest.mark.slow
def test_a_shard_that_fails_says_why_in_one_line(place: Path) -> None:
    (place / "my_guidance.py").write_text(FAILING)
    guidance = ("~guidance", "+guidance={_target_: my_guidance.Failing, scale: 1.0}")
    options = (*FEW, *TWO, *guidance, "out=failed")
    done = ddiff("sample", *options, cwd=place, DDIFF_TRUST="my_guidance")
    assert done.status == 1
    (line,) = done.err.strip().splitlines()
    assert line.startswith("ddiff: samples ")
    assert "failed: " in line
    assert "no luck" in line
    assert line.endswith(".log)")


FAILING = """\
from dataclasses import dataclass
from ddiff.diffusion import ClassifierFree


@dataclass(frozen=True)
class Failing(ClassifierFree):
    def __call__(self, net, x, t, y, step):
        if (y == 9).any():  # in the last batches
            raise ValueError("no luck")
        return super().__call__(net, x, t, y, step)
"""


@pytest.mark.slow
def test_evaluate_draws_in_shards(place: Path) -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(-1, 1, (23, 1, 8, 8)).astype(np.float32)
    np.save(place / "reference.npy", reference)
    options = (*FEW, "seed=2", "reference=reference.npy", "metrics=[pairs]")
    found = []
    for more in ((), (*TWO, "overwrite=true")):
        done = forked("evaluate", *options, *more, cwd=place)
        assert done.status == 0, done.err
        name = "dpmpp_2m_sde2_w1.5_seed2_23"
        figures = json.loads((place / f"run/evaluations/{name}.json").read_text())["figures"]
        samples = np.load(place / f"run/samples/{name}.npy")
        found.append((figures, samples, record(place / f"run/samples/{name}.json")))
        shutil.rmtree(place / "run/samples")
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_bad_combinations_are_refused_in_one_line(place: Path) -> None:
    err = sample(place, *FEW, *TWO, "out=no", "profiler=simple", status=2)
    assert err.startswith("ddiff: profiler: ")
    done = forked("evaluate", "samples=x.npy", "reference=x.npy", *TWO, cwd=place)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "engine: nothing is drawn with samples=" in done.err
    err = sample(place, *FEW, "engine=local", "engine.slots=0", status=2)
    assert "engine.slots: 0 is less than 1" in err

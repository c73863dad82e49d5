"""`make gpu` where there is no GPU: all of its parts on the CPU, so that none of them rots."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.support.runs import forked

ROOT = Path(__file__).parents[1]
GPU = ROOT / "experiments" / "gpu"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(GPU)
    sys.modules.pop("measure", None)
    return importlib.import_module("measure")


@pytest.mark.slow
def test_every_part_runs(measure: ModuleType, tmp_path: Path) -> None:
    """Every part of `make gpu` that is a verb runs on the CPU, in a fork, and has its rows."""
    for part in measure.PARTS:
        _, _, name, *words = measure.command(part, tmp_path, dry=True)
        if name == "pytest":
            continue  # below, and the emulation's own tests are CI's
        verb = name.removeprefix("ddiff.")
        if verb == "kernels":
            continue  # --help
        done = forked(verb, *words, cwd=tmp_path)
        assert done.status == 0, (part.name, done.err)
        (contest,) = json.loads((tmp_path / part.name / "benchmark.json").read_text())["contests"]
        assert {"eager", "native"} <= {row["backend"] for row in contest["rows"]}


# why bodies of tests/gpu cannot run without a GPU, and how many of them each reason leaves out
LEFT_OUT = {
    "its compilation takes minutes, and tests/backends has it on a CPU": 3,
    "the emulation takes seconds a plan, and two have them all": 24,
    "no CPU trains in tf32": 2,
    "no CPU trains in fp16": 2,
    "a CPU's memory has no cap that torch keeps": 1,
    "the engine itself is what is tested": 2,
    "an export takes half a minute, and tests/artifacts has it": 18,
}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs on the GPU itself")
def test_the_bodies_of_the_gpu_s_tests_run(measure: ModuleType, tmp_path: Path) -> None:
    """All of them that `make gpu` runs, with stand-ins (tests/support/gpu.py), but those named."""
    files = {word for part in measure.PARTS for word in part.words if word.startswith("tests/gpu")}
    assert {path.name for path in (ROOT / "tests/gpu").glob("test_*.py")} == {
        Path(name).name for name in files
    }
    out = tmp_path / "outcomes.json"
    words = ["-q", "-p", "no:cacheprovider", "-p", "outcomes", "--outcomes", str(out)]
    command = [sys.executable, "-m", "pytest", *words, *sorted(files)]
    done = subprocess.run(
        command, cwd=ROOT, env=measure.surroundings(dry=True), capture_output=True, text=True,
        timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    tests = json.loads(out.read_text())
    skipped = {
        why.removeprefix("Skipped: not in a dry run: "): count
        for why, count in tests["skipped"].items()
        if not why.startswith("Skipped: needs T")  # a package that is not here
    }
    engines = {"the engine itself is what is tested", "an export takes half a minute, and "
               "tests/artifacts has it"}  # fmt: skip
    has_engines = importlib.util.find_spec("tensorrt_rtx") is not None
    assert skipped == {
        why: count for why, count in LEFT_OUT.items() if has_engines or why not in engines
    }
    assert tests["passed"] == 45 - 2 * (not has_engines)


def test_the_parts_fit_ten_minutes(measure: ModuleType) -> None:
    assert sum(part.seconds for part in measure.PARTS) <= 600
    plan = {"part": measure.PARTS[0].name, "predicted": measure.PARTS[0].seconds}
    assert measure.page([plan], "on no GPU yet").count("| not begun |") == 1


def test_a_part_that_hangs_leaves_time_for_the_rest(
    measure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SPARE", 0)
    hangs = measure.Part("hangs", 0.5, ("timeit", "-n1", "-r1", "import time; time.sleep(60)"), ())
    # this one's own limit of a minute is more than what the first one leaves
    last = measure.Part("last", 30, ("timeit", "-n1", "-r1", "1"), ())
    found = measure.measured([hangs, last], tmp_path, 0.5, dry=False)
    assert [measure.ended(row) for row in found] == ["cut", "passed"]
    assert found[0]["limit"] == 1 <= found[0]["seconds"] < 10
    assert 20 < found[1]["limit"] < 29
    assert "| hangs | 0.5 | 1 |" in measure.page(found, "here")


TESTS = """
import os, pytest
def test_right(): pass
@pytest.mark.skip(reason="needs a CUDA GPU")
@pytest.mark.parametrize("n", [1, 2])
def test_left_out(n): pass
def test_wrong(): raise ValueError("off by 3" + chr(10) + "in all")
def test_ends_all(): os._exit(3)
"""


def test_what_became_of_each_test_is_kept(measure: ModuleType, tmp_path: Path) -> None:
    """Also where the process ends in the middle, and with the name of the test it was in."""
    (tmp_path / "test_it.py").write_text(TESTS)
    part = measure.suite("some_tests", 60, str(tmp_path / "test_it.py"), "--rootdir", str(tmp_path))
    (row,) = measure.measured([part], tmp_path, 5, dry=False)
    tests = row["tests"]
    assert tests["passed"] == 1
    assert tests["skipped"] == {"Skipped: needs a CUDA GPU": 2}
    (wrong,) = tests["failed"]
    assert wrong == {
        "test": "test_it.py::test_wrong", "error": "ValueError: off by 3", "last": "in all",
    }  # fmt: skip
    assert tests["running"] == "test_it.py::test_ends_all"
    assert 0 <= tests["seconds"] <= row["seconds"]
    assert row["status"] == 3
    assert "**failed**: 1 passed, 1 failed, 2 skipped |" in measure.page([row], "here")


def test_what_a_cut_run_had_is_kept(measure: ModuleType, tmp_path: Path) -> None:
    def part(name: str, code: str) -> object:
        return measure.Part(name, 1, ("timeit", "-n1", "-r1", code), ())

    sleep = "import time; time.sleep(60)"
    parts = [part("first", "pass"), part("wrong", "1 / 0"), part("long", sleep), part("last", "1")]
    found = measure.measured(parts, tmp_path, 0.05, dry=False)
    assert [measure.ended(row) for row in found] == ["passed", "**failed**", "cut", "not begun"]
    kept = json.loads((tmp_path / "parts.json").read_text())
    assert kept == found
    assert "ZeroDivisionError" in kept[1]["said"]
    assert 2 < sum(row.get("seconds", 0) for row in kept) < 10

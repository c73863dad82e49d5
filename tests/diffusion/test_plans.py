"""Plans in files: what `learned` reads is what was written, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ddiff.diffusion import X0, V
from ddiff.diffusion.plans import learned, written
from ddiff.diffusion.schedules import cosine, linear
from ddiff.diffusion.solvers import dpmpp_2m, heun
from ddiff.system.errors import ConfigError, DdiffError

FITTED = {"objective": "v", "net": "abc", "guidance": "none", "clamp": 1.0}


def file_of(folder: Path, **changed: Any) -> str:
    plan = written(dpmpp_2m(cosine(100), 4), FITTED) | changed
    path = folder / "plan.json"
    path.write_text(json.dumps({"plan": plan}))
    return str(path)


@pytest.mark.parametrize("solver", [dpmpp_2m, heun])
def test_a_plan_is_read_as_it_was_written(solver, tmp_path):
    before = solver(cosine(100), 4)
    (tmp_path / "plan.json").write_text(json.dumps({"plan": written(before, FITTED)}))
    after = learned(cosine(100), str(tmp_path / "plan.json"))
    assert torch.equal(before.table(V()), after.table(V()))
    assert torch.equal(before.times, after.times)
    assert after.weight is None
    assert after.fitted == FITTED


def test_a_config_needs_the_file_no_more_unless_it_names_another(tmp_path):
    plan = written(dpmpp_2m(cosine(100), 4), FITTED) | {"path": "gone.json"}
    assert len(learned(cosine(100), "gone.json", 4, plan)) == 4
    other = written(dpmpp_2m(cosine(100), 3), FITTED)
    (tmp_path / "other.json").write_text(json.dumps({"plan": other}))
    assert len(learned(cosine(100), str(tmp_path / "other.json"), 4, plan)) == 3


def test_another_schedule_objective_or_number_of_steps_is_refused(tmp_path):
    path = file_of(tmp_path)
    for schedule in (linear(100), cosine(101)):
        with pytest.raises(ConfigError, match=r"another schedule of noise.*ddiff\.plan"):
            learned(schedule, path)
    with pytest.raises(ConfigError, match="has 4 steps, not 5"):
        learned(cosine(100), path, 5)
    with pytest.raises(ConfigError, match="with objective v, and this one has x0"):
        learned(cosine(100), path).table(X0())
    with pytest.raises(ConfigError, match=r"there is no nowhere\.json; python -m ddiff\.plan"):
        learned(cosine(100), "nowhere.json")


DAMAGED = {
    "times that rise": {"times": [100, 40, 60, 10, 0]},
    "times above T": {"times": [1000, 60, 40, 10, 0]},
    "times without an end": {"times": [100, 60, 40, 10, 5]},
    "a time of words": {"times": [100, "60", 40, 10, 0]},
    "a short column": {"x": [1.0, 1.0]},
    "a number that is none": {"x_0": [1.0, 1.0, 1.0, float("nan")]},
    "a first step that remembers": {"x_0_previous": [0.1, 0.0, 0.0, 0.0]},
    "no column": {"x_0_previous": None},
    "no abar": {"abar": None},
    "nothing it was fitted to": {"fitted": None},
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused(case, tmp_path):
    path = file_of(tmp_path, **DAMAGED[case])
    with pytest.raises(DdiffError, match="does not hold a plan"):
        learned(cosine(100), path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan": 3}'])
def test_a_file_of_something_else_is_refused(text, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(DdiffError, match=r"is not a file of ddiff\.plan"):
        learned(cosine(100), str(tmp_path / "plan.json"))

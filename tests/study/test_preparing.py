"""The preparation of a study: costs of its trainings, and those that cannot run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ddiff.study import preparing
from ddiff.study.folder import TASK, Cost
from ddiff.study.plan import Plan
from ddiff.study.running import work_of
from ddiff.system.errors import DdiffError
from ddiff.system.files import write_json
from tests.study.test_plan import TWO, plan

THREE = "{cosine: schedule=cosine, linear: schedule=linear, sigmoid: schedule=sigmoid}"
WHY = "data.run: there is no run encoder"


class Machine:
    """Answers calibrations; trainings in `broken` cannot run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken: set[str] = set()
        self.asked: list[list[str]] = []
        monkeypatch.setattr(preparing, "ask_engine", self.ask)

    def ask(self, engine: Any, folder: Path, ask: dict[str, Any]) -> list[dict[str, Any]]:
        self.asked.append([*ask["trainings"]])
        cost = {"cost": asdict(Cost(0.1, 0, 0, 0, 0, 0.01, 1e3, 10))}
        costs = {n: {"why": WHY} if n in self.broken else cost for n in ask["trainings"]}
        drawings = {n: {"evaluations": 10 * (i + 1)} for i, n in enumerate(ask["variants"])}
        return [{"costs": costs, "drawings": drawings}]


def prepared(found: Plan, folder: Path) -> preparing.Ready:
    return preparing.prepared(found, folder, None)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_what_cannot_run_is_left_out_and_tried_again(machine: Machine, tmp_path: Path) -> None:
    machine.broken = {"linear"}
    ready = prepared(plan(vary=THREE), tmp_path)
    assert ready.refused == {"linear": WHY}
    assert {trial.training for trial in ready.trials} == {"cosine", "sigmoid"}
    machine.broken = set()
    ready = prepared(plan(vary=THREE), tmp_path)
    assert ready.refused == {}
    assert {trial.training for trial in ready.trials} == {"cosine", "linear", "sigmoid"}
    assert machine.asked == [["cosine", "linear", "sigmoid"], ["cosine", "linear"]]
    prepared(plan(vary=THREE), tmp_path)
    assert len(machine.asked) == 2  # all is known


@pytest.mark.parametrize("broken", [{"cosine"}, {"linear"}])
def test_a_comparison_that_would_have_one_side_is_refused(
    broken: set[str], machine: Machine, tmp_path: Path
) -> None:
    machine.broken = broken
    for _ in range(2):  # also by what is in its folder
        with pytest.raises(DdiffError, match=f"^{next(iter(broken))}: {WHY}$"):
            prepared(plan(vary=TWO), tmp_path)


def test_progress_counts_training_and_measuring_by_their_time(
    machine: Machine, tmp_path: Path
) -> None:
    vary = "{plain: guidance=none, guided: guidance.scale=1}"
    found = plan(vary=vary, decide="fid", equal="steps", budget=50, num_samples=100)
    ready = prepared(found, tmp_path)
    trial = ready.trials[0]
    write_json(trial.folder / TASK, ready.task(trial))
    # 50 steps of 0.1 s; 100 samples of 10 and of 20 evaluations of 0.01 s
    assert work_of(trial, 0, ready) == (0, pytest.approx(5 + 10 + 20), "")
    (trial.folder / "log.txt").write_text("training 20/50  2 s\n")
    assert work_of(trial, 0, ready)[::2] == (pytest.approx(2), "plain seed 0 20/50")
    write_json(trial.folder / "metrics.json", {"step": 50})
    write_json(trial.folder / "evaluations/plain_000050.json", {})
    assert work_of(trial, 0, ready)[::2] == (pytest.approx(15), "plain seed 0 measured 1 of 2")

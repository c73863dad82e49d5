"""Calibration: what is charged, and that noise of the machine decides nothing."""

import time
from typing import Any

import numpy as np
import pytest
import torch

from ddiff.diffusion.schedules import constant
from ddiff.diffusion.timesteps import OnlineTopK, Uniform
from ddiff.study import calibration
from ddiff.study.calibration import combined, drawing, in_turns, measured, step_seconds
from ddiff.study.folder import Cost
from ddiff.system.errors import ConfigError
from ddiff.training.turns import Turns, count_scorings
from tests.support.runs import TINY

NO_WAY_BACK = ("objective=eps", "schedule=zero_terminal_snr")
COST = Cost(0.1, 2.0, 1.0, 0.01, 0.0, 0.0, 0.0, 0.0)


def test_start_and_scoring_are_charged() -> None:
    assert COST.per_step == pytest.approx(0.11)
    assert COST.steps_in(13.0) == 100
    assert COST.steps_in(0.5) == 1
    assert COST.scaled(2.0).steps_in(26.0) == 100


def test_a_busy_machine_gives_no_one_more_steps() -> None:
    """Rounds of very different speeds: the same counts as the same, what is slower is found."""
    random = np.random.default_rng(0)
    load = random.uniform(1, 4, 30)
    noise = lambda: 1 + 0.03 * random.standard_normal(30)  # noqa: E731
    times = {"first": load * noise(), "same": load * noise(), "slower": 1.2 * load * noise()}
    found = step_seconds({name: of.tolist() for name, of in times.items()})
    assert found["same"] == found["first"]
    assert found["slower"] / found["first"] == pytest.approx(1.2, rel=0.03)


def test_of_trainings_that_cost_the_same_few_are_called_different() -> None:
    random = np.random.default_rng(1)
    different = 0
    for _ in range(500):
        found = step_seconds({n: (1 + 0.05 * random.standard_normal(20)).tolist() for n in "ab"})
        different += found["a"] != found["b"]
    assert different < 500 * 0.12  # a two-sided test at two standard errors, of a median of 20


def test_several_slots_are_combined() -> None:
    part: dict[str, dict[str, Any]] = {"a": {"cost": vars(COST)}, "b": {"cost": vars(COST)}}
    other = {"a": {"cost": vars(COST.scaled(3.0))}, "b": {"why": "no"}}
    found = combined([part, other])
    assert isinstance(found["a"], Cost)
    assert found["a"].step == pytest.approx(0.2)
    assert found["b"] == "no"


def test_scorings_are_counted_without_scoring() -> None:
    schedule = constant(100, 0.05)
    exact = OnlineTopK(schedule, score="exact", bins=5, refresh_every=50)
    asked, calls = count_scorings(exact, 1000)
    assert asked is not None
    assert (len(asked[0]), asked[1], calls) == (5, "exact", 20)
    assert float(exact.average.seen.sum()) == 0  # a copy was asked
    assert count_scorings(Uniform(schedule), 1000) == (None, 0)


def test_turns_train_as_the_trainer_does(tmp_path, monkeypatch) -> None:
    """The same weights to the bit after the same steps."""
    from tests.support.runs import checkpoint, forked

    words = ["experiment=digits_cfg", *TINY, "backend=eager", "trainer.accumulate_grad_batches=2",
             "lr_schedule=warmup_constant", "lr_schedule.warmup_steps=0"]  # fmt: skip
    done = forked("train", *words, "budget.max_steps=3", "run_dir=run", cwd=tmp_path)
    assert done.status == 0, done.err
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    turns = Turns(words)
    turns.step()
    turns.step()
    torch.set_num_threads(threads)
    trained = checkpoint(tmp_path / "run")["state_dict"]
    for name, value in turns.module.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_what_cannot_run_is_said_and_the_others_are_measured() -> None:
    base = ["experiment=digits_ddpm", *TINY]
    found = measured({"good": base, "bad": [*base, *NO_WAY_BACK]})
    assert found["good"]["cost"]["step"] > 0
    assert found["bad"]["why"].startswith("objective eps cannot recover x_0")


def test_steps_of_a_solver_for_so_many_evaluations() -> None:
    base = ["experiment=digits_cfg", *TINY, "solver=ddim"]
    assert drawing([*base, "guidance=none"], 20) == {"evaluations": 20, "num_steps": 20}
    assert drawing([*base, "guidance.scale=1"], 21) == {"evaluations": 20, "num_steps": 10}
    plain = drawing([*base, "guidance=none", "solver.num_steps=7"], None)
    assert plain == {"evaluations": 7, "num_steps": None}
    fit = ["plan.num_steps=3", "plan.num_samples=10", "plan.held_out=6", "plan.solver.num_steps=20",
           "plan.iterations=2", "plan.batch_size=8"]  # fmt: skip
    fitted = {"evaluations": 6, "num_steps": None, "fit": 16 * 20 + 3 * 2 * 8 * 3}
    assert drawing([*base, "guidance.scale=1", *fit], None) == fitted
    assert drawing([*base, "guidance=none", *fit], 4) == {
        "evaluations": 4, "num_steps": 4, "fit": 16 * 20 + 3 * 2 * 8 * 4
    }  # fmt: skip
    given = ["guidance.scale=1", "solver=ddpm", "from_image=held_out"]
    jumps = [*base, *given, "inpaint=half", "jumps=2", "y=none", "solver.num_steps=5"]
    assert drawing(jumps, None)["evaluations"] == 4 * 3 + 1
    back = [*base, *given, "upscale=2", "posterior=3", "solver.num_steps=5"]
    assert drawing(back, None)["evaluations"] == 5 * 2 * (1 + 3)
    half = [*base, "guidance=none", "from_image=held_out", "solver.num_steps=10"]
    assert drawing(half, None)["evaluations"] == 5
    with pytest.raises(ConfigError, match="fewer than one step"):
        drawing([*base, "guidance.scale=1"], 1)


@pytest.mark.parametrize("most", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 7))])
def test_trainings_that_do_not_fit_together_take_turns_in_groups(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many at a time fit; a slower machine in a later group does not change who costs what."""
    alive: list[int] = [0]
    groups: list[int] = []

    class Small:
        load, recipe_steps, first = 0.0, 10, 1.0

        def __init__(self, words: list[str]) -> None:
            if alive[0] >= most:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 GB")
            alive[0] += 1
            self.words = words

        def __del__(self) -> None:
            if hasattr(self, "words"):
                alive[0] -= 1

        def step(self) -> None: ...

        def scoring(self) -> tuple[float, float]:
            return 0.0, 0.0

        def forward(self) -> float:
            return 0.0

        def state_bytes(self) -> int:
            return 1

    def times(seconds: dict[str, list[float]]) -> dict[str, float]:
        groups.append(len(seconds))
        return {name: (2.0 if name == "slow" else 1.0) * len(groups) for name in seconds}

    monkeypatch.setattr(calibration, "Turns", Small)
    monkeypatch.setattr(calibration, "step_seconds", times)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    names = ["first", "a", "b", "slow", "c", "d"]
    found = measured({name: [name] for name in names})
    assert list(found) == names
    if most == 1:  # not even two: the first runs, the others say why not
        assert "out of memory" in found["a"]["why"]
        return
    steps = {name: one["cost"]["step"] for name, one in found.items()}
    assert steps == {name: 2.0 if name == "slow" else 1.0 for name in names}
    assert max(groups) <= most


def test_no_place_in_a_round_makes_a_training_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step of every round takes ten times as long, whoever has it."""
    taken = [0]

    class InTurn:
        load, recipe_steps, first = 0.0, 10, 1.0

        def __init__(self, words: list[str]) -> None: ...

        def step(self) -> None:
            taken[0] += 1
            time.sleep(0.01 if taken[0] % 3 == 2 else 0.001)

        def scoring(self) -> tuple[float, float]:
            return 0.0, 0.0

        def forward(self) -> float:
            return 0.0

        def state_bytes(self) -> int:
            return 1

    monkeypatch.setattr(calibration, "Turns", InTurn)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setattr(calibration, "ROUNDS", 40)
    found = in_turns({name: [name] for name in ("first", "second", "third")}, print)
    steps = {one["cost"]["step"] for one in found.values()}
    assert len(steps) == 1  # none differs from the first beyond noise

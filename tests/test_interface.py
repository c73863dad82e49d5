"""`import ddiff`: what it offers, how quickly, and that it draws the command line's samples."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ddiff
from ddiff.backends import Eager
from ddiff.diffusion import Plan
from ddiff.system.errors import ConfigError, DdiffError
from tests.support.runs import ddiff_many, job

RUN = Path(__file__).parent / "old_runs/pictures"


def seconds(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", f"""
import time
started = time.perf_counter()
{code}
print(time.perf_counter() - started)
"""], capture_output=True, text=True, check=True)  # fmt: skip
    return float(done.stdout)


def test_import_costs_nothing_before_a_part_is_used() -> None:
    code = "import sys, ddiff\nassert 'torch' not in sys.modules"
    assert seconds(code) < 0.2 * seconds("import torch")


def test_the_mathematics_needs_neither_hydra_nor_lightning() -> None:
    code = """
import sys, torch
from ddiff import loss, nets, objectives, schedules, solve, solvers, timesteps
assert not {"lightning", "hydra", "omegaconf"} & sys.modules.keys()
"""
    seconds(code)


def test_all_that_is_offered_is_there() -> None:
    assert len(ddiff.__all__) == 10
    for name in ddiff.__all__:
        assert getattr(ddiff, name) is not None
        assert name in dir(ddiff)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ddiff.nonsense


@pytest.fixture(scope="module")
def model() -> "ddiff.Model":
    return ddiff.load(RUN, accelerator="cpu")


def test_a_model_says_what_it_is(model: "ddiff.Model") -> None:
    assert model.shape == (1, 8, 8)
    assert model.num_classes == 10
    assert str(model.step) in repr(model)
    assert model.config["net"]["shape"] == [1, 8, 8]
    assert model.config["budget"]["max_steps"] == model.step
    x = torch.zeros(2, 1, 8, 8)
    assert model.net(x, torch.tensor([0, 9]), None).shape == x.shape
    assert model.schedule.abar[0] == 1


def test_samples_are_the_command_line_s(model: "ddiff.Model", tmp_path: Path) -> None:
    options = ("num_samples=6", "batch_size=4", "accelerator=cpu", "threads=1", "mesh=none")
    jobs = [
        job("sample", f"run={RUN}", "out=own", "seed=3", *options),
        job("sample", f"run={RUN}", "out=other", "solver=dpmpp_2m", "solver.num_steps=4", "y=7",
            "guidance=cfg", "guidance.scale=1.5", *options),
    ]  # fmt: skip
    assert [done.err for done in ddiff_many(jobs, tmp_path)] == ["", ""]
    own = model.sample(6, seed=3, batch_size=4)
    other = model.sample(6, y=7, solver="dpmpp_2m", num_steps=4, guidance=1.5, batch_size=4)
    assert own.dtype == np.float32
    np.testing.assert_array_equal(own, np.load(tmp_path / "own.npy"))
    np.testing.assert_array_equal(other, np.load(tmp_path / "other.npy"))


def test_a_plan_and_a_guidance_of_one_s_own(model: "ddiff.Model") -> None:
    """One step to the estimate of x_0, which the guidance says is 0.25 whatever the net says."""
    schedule = model.schedule
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    plan = Plan(schedule, torch.tensor([schedule.T, 0]), zero, one, zero, zero)
    a, b = schedule.abar[-1].sqrt(), (1 - schedule.abar[-1]).sqrt()
    p, q = (v.item() for v in model.objective.coefficients(a[None], b[None]))

    def flat(net, x, t, y, step):
        return (0.25 - p * x) / q

    found = model.sample(3, solver=plan, guidance=flat, backend=Eager())
    np.testing.assert_allclose(found, 0.25, atol=1e-4)


def test_mistakes_are_said_in_a_line(model: "ddiff.Model", tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"solver: there is no 'ddimm'; did you mean 'ddim'\?"):
        model.sample(1, solver="ddimm")
    with pytest.raises(ConfigError, match="y: 11 is not a label"):
        model.sample(1, y=11)
    with pytest.raises(ConfigError, match="y=none gives none"):
        model.sample(1, y="none", guidance=2.0)
    with pytest.raises(DdiffError, match="no run or checkpoint"):
        ddiff.load(tmp_path / "nothing")

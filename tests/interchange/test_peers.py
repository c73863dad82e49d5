"""diffusers and MONAI themselves: the same nets, computed there and here.

They are installed in an environment of their own; `make peers` makes it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ddiff
from ddiff.diffusion import V, solve, solvers
from ddiff.diffusion.schedules import Schedule, flow, karras, linear, shifted
from tests.artifacts.worlds import export_of, make_run
from tests.interchange.peer_side import mixture

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
PEER = Path(__file__).with_name("peer_side.py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / ".venv-peers" / "pins").is_file(), reason="diffusers is not here: `make peers`"
    ),
]


def peer(do: str, folder: Path, name: str = "") -> dict[str, Any]:
    """Runs peer_side.py, and reads what it recorded."""
    order = json.dumps({"do": do, "folder": str(folder), "name": name})
    done = subprocess.run([PYTHON, PEER, order], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {k: torch.from_numpy(v) for k, v in np.load(folder / "recorded.npz").items()}


@torch.no_grad()
def errors(folder: Path, made: dict[str, Any]) -> tuple[float, float]:
    """The largest differences of predictions, and of samples of 20 steps of DDIM."""
    shape = None if "samples" in made else tuple(made["x"].shape[1:])
    model = ddiff.load(folder, accelerator="cpu", shape=shape)
    prediction = float((model.net(made["x"], made["t"]) - made["prediction"]).abs().max())
    if "samples" not in made:
        return prediction, 0.0
    node = model.config["solver"]
    plan = solvers.ddim(model.schedule, 20, 0.0, node["spacing"], node["steps_offset"])
    assert (plan.times[:-1] - 1).tolist() == made["times"].tolist()
    *_, last = solve(model.net, plan, model.objective, made["x"], clamp=1.0)
    return prediction, float((last.x - made["samples"]).abs().max())


@pytest.mark.parametrize("name", ["cifar", "defaults", "scaled"])
def test_nets_of_diffusers_here(name: str, tmp_path: Path) -> None:
    made = peer("save", tmp_path / name, name)
    prediction, samples = errors(tmp_path / name, made)
    print(f"{name}: predictions {prediction:.2g}, samples {samples:.2g}")
    assert prediction < 1e-5
    assert samples < 1e-4


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_a_run_in_diffusers(solver: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "plain")
    chosen = {"_target_": f"ddiff.diffusion.solvers.{solver}", "_partial_": True, "num_steps": 20,
              "spacing": "trailing"}  # fmt: skip
    folder = export_of(run, "Diffusers", solver=chosen).path
    made = peer("open", folder)
    prediction, samples = errors(folder, made)
    print(f"{solver}: predictions {prediction:.2g}, samples {samples:.2g}")
    assert prediction < 1e-5
    assert samples < 1e-4


def test_a_net_of_monai_here(tmp_path: Path) -> None:
    prediction, _ = errors(tmp_path / "bundle", peer("bundle", tmp_path / "bundle", "volumes"))
    print(f"MONAI: predictions {prediction:.2g}")
    assert prediction < 1e-5


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The states and noise levels of diffusers' schedulers."""
    return peer("schedulers", tmp_path_factory.mktemp("peer") / "schedulers")


def nearly_noise(schedule: Schedule, sigma: float) -> Schedule:
    """The schedule, but for its end: x = (1 - sigma) x_0 + sigma eps."""
    abar = schedule.abar.clone()
    abar[-1] = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return Schedule(abar)


# diffusers shifts the noise level 1 / 1000 where its steps end twice: to 1 / 334, which is the end
# of a schedule of T = 334, and that once more. And its UniPC starts a flow at this, not at 1:
BELOW_1 = float(torch.tensor(1 - 1e-6))
VP = solvers.unipc(linear(), 10, spacing="trailing")
STEPPED = {
    "euler": solvers.ddim(flow(), 10, spacing="linear"),
    "euler of a pipeline": solvers.ddim(shifted(flow(), 1 / 9), 10, spacing="trailing"),
    "euler shifted": solvers.ddim(shifted(flow(334), 1 / 9), 10, spacing="linear"),
    "heun": solvers.heun(flow(), 10, line="flow", spacing="linear"),
    "heun shifted": solvers.heun(shifted(flow(334), 1 / 9), 10, line="flow", spacing="linear"),
    "unipc epsilon": VP,
    "unipc sample": VP,
    "unipc v_prediction": VP,
    "unipc flow": solvers.unipc(
        nearly_noise(flow(), BELOW_1), 9, spacing=list(range(1000, 1, -111))
    ),
    "edm": solvers.ddim(karras(), 10, spacing="karras"),
}


@pytest.mark.parametrize("name", STEPPED)
def test_states_after_every_step_of_diffusers_schedulers(name: str, stepped: dict[str, Any]):
    plan, objective = STEPPED[name], V()
    there = stepped[f"{name} noise over signal"][:-1]
    here = plan.schedule.sigma[plan.times[:-1]]
    torch.testing.assert_close(here, there, rtol=1e-4, atol=0)

    def net(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        a, b = plan.schedule.signal_and_noise(t + 1, x)
        x_0 = mixture(plan.schedule.abar[t[0] + 1], x)
        return objective.target(plan.schedule, x_0, (x - a * x_0) / b, t + 1)

    states = [one.x for one in solve(net, plan, objective, stepped["noise"].double())]
    differences = (torch.stack(states) - stepped[f"{name} states"]).abs().amax((1, 2, 3, 4))
    print(f"{name}: {differences.max():.2g}")
    assert differences.max() < 2e-5

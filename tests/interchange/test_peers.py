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
from ddiff.diffusion import solve, solvers
from tests.artifacts.worlds import export_of, make_run

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
PEER = Path(__file__).with_name("peer_side.py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="diffusers is not here: `make peers`"),
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

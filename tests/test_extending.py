"""Parts of a user's own, from a folder outside the repository, as docs/extending.md says."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.runs import Done, checkpoint, ddiff

PARTS = '''
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from ddiff.diffusion import ClassifierFree, Plan, Schedule
from ddiff.diffusion.solvers import spaced
from ddiff.diffusion.timesteps import TimestepSampler
from ddiff.metrics.figures import Figure
from ddiff.system.bounds import At


def straight(T: int = 50) -> Schedule:
    """A schedule: abar falls in a straight line."""
    return Schedule(torch.linspace(1, 0.01, T + 1, dtype=torch.float64))


def last_word(schedule: Schedule, num_steps: int = 4) -> Plan:
    """A solver: x becomes the estimate of x_0, noised to the next level, without new noise."""
    times = spaced(schedule, num_steps, "trailing")
    zeros = torch.zeros(num_steps, dtype=torch.float64)
    return Plan(schedule, times, zeros, schedule.abar[times[1:]].sqrt(), zeros, zeros)


@dataclass(frozen=True)
class Middle(ClassifierFree):
    """Guidance between two levels."""

    start: float = 0.2
    end: float = 0.6

    def weights(self, plan: Plan) -> torch.Tensor:
        u = plan.times[:-1] / plan.schedule.T
        return torch.where((u > self.start) & (u <= self.end), super().weights(plan), 0.0)


class Late(TimestepSampler):
    """Timesteps of the noisier half only."""

    unbiased = False

    def law(self) -> torch.Tensor:
        law = torch.ones(self.T)
        law[: self.T // 2] = 0
        return law / law.sum()


class MyNet(nn.Module):
    def __init__(self, shape, num_classes, width: Annotated[int, At(least=1, most=64)] = 4):
        super().__init__()
        self.inner = nn.Conv2d(shape[0], width, 3, padding=1)
        self.outer = nn.Conv2d(width, shape[0], 3, padding=1)
        self.label = nn.Embedding(num_classes + 1, width)

    def forward(self, x, t, y=None):
        y = torch.full_like(t, -1) if y is None else y
        return self.outer(torch.tanh(self.inner(x) + self.label(y + 1)[:, :, None, None]))


class Bell(Callback):
    """Rings every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every == 0:
            print(f"bell at step {trainer.global_step}")


class Lines(Logger):
    """A logger that is given the run's directory."""

    name, version = "lines", "0"

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "lines.txt"

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        with open(self.path, "a") as file:
            file.write(f"options {len(params)}\\n")

    def log_metrics(self, metrics, step=None) -> None:
        with open(self.path, "a") as file:
            file.writelines(f"{step} {tag} {value}\\n" for tag, value in metrics.items())


class Brightness:
    """A metric: the mean of all samples."""

    def obstacle(self, case):
        return None

    def __call__(self, case):
        total = torch.cat([x for x, _ in case.samples.chunks()])
        return [Figure("brightness", float(total.mean()), len(total), {"of": "all pixels"})]
'''
CONFIGS = {
    "schedule/straight": "_target_: my_parts.straight\nT: 50\n",
    "solver/last_word": "_target_: my_parts.last_word\n_partial_: true\nnum_steps: 5\n",
    "guidance/middle": "_target_: my_parts.Middle\nscale: 2.0\nstart: 0.2\nend: 0.6\n",
    "timesteps/late": "_target_: my_parts.Late\n",
    "net/my_net": "_target_: my_parts.MyNet\nshape: null\nnum_classes: null\nwidth: 4\n",
    "callbacks/bell": "bell:\n  _target_: my_parts.Bell\n  every: 2\n",
    "logger/lines": "lines:\n  _target_: my_parts.Lines\n",
    "metrics/brightness": "brightness:\n  _target_: my_parts.Brightness\n",
}
CHOSEN = ("experiment=digits_cfg", "trainer=smoke", "schedule=straight", "solver=last_word",
          "guidance=middle", "guidance.scale=2.0", "timesteps=late", "net=my_net",
          "callbacks=bell", "logger=[lines,csv]", "metrics=brightness", "evaluation.every=4",
          "evaluation.num_samples=8", "precision=fp32")  # fmt: skip


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> tuple[Path, Done]:
    cwd = tmp_path_factory.mktemp("mine")
    (cwd / "my_parts.py").write_text(PARTS)
    for name, text in CONFIGS.items():
        path = cwd / f"mine/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# conf/{name}.yaml : mine\n{text}")
    return cwd, run(cwd, "train", *CHOSEN, "run_dir=run")


def run(cwd: Path, verb: str, *options: str) -> Done:
    env = {"DDIFF_TRUST": "my_parts", "PYTHONPATH": str(cwd)}
    return ddiff(verb, "--config-dir", "mine", *options, cwd=cwd, **env)


def test_a_training_of_parts_of_ones_own(mine) -> None:
    cwd, done = mine
    assert done.status == 0, done.err
    assert [line for line in done.out.splitlines() if line.startswith("bell")] == [
        "bell at step 2",
        "bell at step 4",
    ]
    found = checkpoint(cwd / "run")
    assert set(found["state_dict"]) >= {"net.inner.weight", "ema.label.weight"}
    assert found["ddiff"]["config"]["timesteps"]["_target_"] == "my_parts.Late"
    report = json.loads((cwd / "run/metrics.json").read_text())["timesteps"]
    assert report["sampler"] == "Late"
    assert report["tenths"]["p"] == pytest.approx([0] * 5 + [0.2] * 5)


def test_its_figures_reach_a_logger_of_ones_own(mine) -> None:
    cwd, _ = mine
    lines = [line.split() for line in (cwd / "run/lines.txt").read_text().splitlines()]
    losses = [float(words[2]) for words in lines if words[1] == "train/loss"]
    assert len(losses) == 4
    (figure,) = json.loads((cwd / "run/evaluations/step_000004.json").read_text())["figures"]
    assert (figure["name"], figure["n"]) == ("brightness", 8)
    assert [float(w[2]) for w in lines if w[1] == "quality/brightness"] == [
        pytest.approx(figure["value"])
    ]


def test_its_samples_follow_its_solver_and_guidance(mine) -> None:
    """By hand: five steps, the net's word noised to the next level, guided in the middle."""
    cwd, _ = mine
    done = run(cwd, "sample", "run=run", "num_samples=3", "y=2", "clamp=null", "out=drawn")
    assert done.status == 0, done.err
    made = json.loads((cwd / "drawn.json").read_text())
    assert made["evaluations"] == 5 + 2  # u = 0.6 and 0.4 are guided
    state = {k[4:]: v for k, v in checkpoint(cwd / "run")["state_dict"].items() if k[:4] == "ema."}
    conv = torch.nn.functional.conv2d

    def net(x: torch.Tensor, y: int) -> torch.Tensor:
        h = conv(x, state["inner.weight"], state["inner.bias"], padding=1)
        h = torch.tanh(h + state["label.weight"][y + 1][None, :, None, None])
        return conv(h, state["outer.weight"], state["outer.bias"], padding=1)

    from ddiff.kernels import philox
    from ddiff.system.random import key

    x = philox.normal(key(0, "sample"), torch.arange(3), 0, (1, 8, 8))
    abar = torch.linspace(1, 0.01, 51, dtype=torch.float64)
    times = [50, 40, 30, 20, 10, 0]
    for t, s in pairwise(times):
        w = 2.0 if 0.2 < t / 50 <= 0.6 else 0.0
        v = (1 + w) * net(x, 2) - w * net(x, -1)
        a, b = abar[t].sqrt().float(), (1 - abar[t]).sqrt().float()
        x = abar[s].sqrt().float() * (a * x - b * v)
    assert np.abs(np.load(cwd / "drawn.npy") - x.numpy()).max() < 1e-4


@pytest.mark.slow
def test_what_the_page_shows_of_data_and_solvers_trains(mine, tmp_path: Path) -> None:
    """The Python and the YAML of docs/extending.md, as they stand there."""
    page = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
    codes = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    parts = [code for code in codes if "class Waves" in code or "def renoised" in code]
    assert len(parts) == 2
    (tmp_path / "my_package.py").write_text("\n\n".join(parts))
    for name in ("data/waves", "solver/renoised"):
        (yaml,) = re.findall(rf"^```yaml\n# mine/{name}.yaml\n(.*?)^```$", page, re.M | re.S)
        path = tmp_path / f"mine/{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml)
    done = ddiff("train", "--config-dir", "mine", "data=waves", "experiment=pictures",
                 "module=conditional_ddpm", "net=unet_tiny", "schedule=cosine", "data.num=40",
                 "solver=renoised", "solver.num_steps=3", "debug=smoke", "run_dir=run",
                 cwd=tmp_path, DDIFF_TRUST="my_package", PYTHONPATH=str(tmp_path))  # fmt: skip
    assert done.status == 0, done.err
    assert np.load(next((tmp_path / "run/samples").glob("*.npy"))).shape[1:] == (1, 16, 16)
    assert checkpoint(tmp_path / "run")["ddiff"]["config"]["net"]["num_classes"] == 2


@pytest.mark.slow
def test_bounds_and_trust_hold_for_them_too(mine) -> None:
    cwd, _ = mine
    done = run(cwd, "train", *CHOSEN, "net.width=100", "run_dir=no")
    assert (done.status, done.err) == (2, "ddiff: net.width: 100 is more than 64\n")
    done = ddiff("train", "--config-dir", "mine", *CHOSEN, "run_dir=no", cwd=cwd)
    assert done.status == 2
    assert "DDIFF_TRUST=my_parts" in done.err
    assert not (cwd / "no").exists()

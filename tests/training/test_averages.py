"""Power averages in a training: each step counted once, exact when resumed, read by weights=."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ddiff.artifacts.trained import Trained
from ddiff.diffusion import solve
from ddiff.diffusion.solvers import ddim
from ddiff.kernels import philox
from ddiff.nets.averages import power_of
from ddiff.system.errors import ConfigError
from ddiff.system.random import key
from ddiff.training.callbacks import PowerAverages
from tests.support.runs import TINY, checkpoint, forked

STEPS = 30


def walk() -> list[torch.Tensor]:
    """Weights [STEPS, 3] after every step."""
    random = torch.Generator().manual_seed(3)
    return list(torch.randn(STEPS, 3, generator=random).cumsum(0))


def trained(callback: PowerAverages, weights: list[torch.Tensor], begun: int = 0) -> None:
    """Steps of two accumulated batches each, from the step after `begun`."""
    net = nn.Linear(3, 1, bias=False)
    module: Any = SimpleNamespace(net=net)
    trainer: Any = SimpleNamespace(global_step=begun, is_global_zero=True)
    callback.on_train_start(trainer, module)
    for values in weights:
        callback.on_train_batch_end(trainer, module, None, None, 0)
        with torch.no_grad():
            net.weight.copy_(values)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 1)


def test_averages_are_those_of_the_definition(tmp_path: Path) -> None:
    """Step k of t has the share (k^(p + 1) - (k - 1)^(p + 1)) / t^(p + 1)."""
    callback = PowerAverages(tmp_path, every=10, lengths=(0.05, 0.2))
    trained(callback, walk())
    k = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    for length, values in zip((0.05, 0.2), callback.values, strict=True):
        shares = (k ** (power_of(length) + 1)).diff()
        expected = shares @ torch.stack(walk()).double()
        torch.testing.assert_close(values["weight"][0].double(), expected, rtol=1e-4, atol=1e-5)
    files = sorted(file.name for file in (tmp_path / "averages").iterdir())
    assert files == ["step_000010.pt", "step_000020.pt", "step_000030.pt"]


def test_a_broken_training_has_the_same_averages(tmp_path: Path) -> None:
    whole, first, second = (PowerAverages(tmp_path, every=7) for _ in range(3))
    trained(whole, walk())
    trained(first, walk()[:13])
    second.load_state_dict(first.state_dict())
    trained(second, walk()[13:], begun=13)
    for one, other in zip(whole.values, second.values, strict=True):
        assert torch.equal(one["weight"], other["weight"])


def test_averages_that_begin_late_count_from_there(tmp_path: Path) -> None:
    late, alone = PowerAverages(tmp_path, every=7), PowerAverages(tmp_path, every=7)
    trained(late, walk()[13:], begun=13)
    trained(alone, walk()[13:])
    assert late.since == 13
    assert torch.equal(late.values[0]["weight"], alone.values[0]["weight"])


def assert_guided_by_a_weaker_net(folder: Path) -> None:
    """`guidance=auto` by the raw weights, against the equation, and what it refuses."""
    done = forked("sample", "run=run", "guidance=auto", "num_samples=2", "out=auto",
                  "solver.num_steps=3", "precision=fp32", "clamp=null", cwd=folder)  # fmt: skip
    assert done.status == 0, done.err
    strong, weak = (Trained.load(str(folder / "run"), kind, "cpu") for kind in ("ema", "net"))
    x = philox.normal(key(0, "sample"), torch.arange(2), 0, (1, 8, 8))
    plan = ddim(strong.schedule, 3)

    def guided(x: torch.Tensor, t: torch.Tensor, y: None) -> torch.Tensor:
        return 2 * strong.net(x, t) - weak.net(x, t)

    with torch.no_grad():
        *_, last = solve(guided, plan, strong.objective, x)
    made = torch.from_numpy(np.load(folder / "auto.npy"))
    assert json.loads((folder / "auto.json").read_text())["evaluations"] == 6  # of both nets
    torch.testing.assert_close(made, last.x, rtol=1e-4, atol=1e-4)
    wrong = {
        "guidance.of=ema": "guidance.of: ema are the very weights",
        "guidance.step=3": "step: snapshots hold averages",
        "guidance.of=0.1 guidance.step=4": "step: 4 is none of the snapshots",
    }
    for words, message in wrong.items():
        done = forked("sample", "run=run", "guidance=auto", *words.split(), cwd=folder)
        assert (done.status, message in done.err) == (2, True), done.err
    done = forked("export", "run=run", "guidance=auto", cwd=folder)
    assert "guidance=auto: a file holds one net" in done.err


@pytest.mark.slow
def test_weights_of_a_length_from_a_run(tmp_path: Path) -> None:
    options = ("experiment=digits_ddpm", *TINY, "budget.max_steps=12", "budget.save_every=3")
    done = forked("train", *options, "callbacks=power_averages", "run_dir=run", cwd=tmp_path)
    assert done.status == 0, done.err
    kept = checkpoint(tmp_path / "run")["callbacks"]["PowerAverages"]
    run = str(tmp_path / "run")
    for length, values in zip((0.05, 0.1), kept["values"], strict=True):
        state = Trained.load(run, length, "cpu").net.state_dict()
        for name, value in values.items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    between = Trained.load(run, 0.07, "cpu").net.state_dict()
    short, long = kept["values"]
    distance = [
        sum(float((between[name] - one[name]).square().sum()) for name in one)
        for one in (short, long)
    ]
    apart = sum(float((short[name] - long[name]).square().sum()) for name in short)
    assert max(distance) < apart
    done = forked("sample", "run=run", "weights=0.07", "num_samples=2", cwd=tmp_path)
    assert done.status == 0, done.err
    assert list((tmp_path / "run/samples").glob("*_ema0.07_2.npy"))
    assert_guided_by_a_weaker_net(tmp_path)
    plain = forked("train", *options, "run_dir=plain", cwd=tmp_path)
    assert plain.status == 0, plain.err
    with pytest.raises(
        ConfigError, match=r"weights: 0\.07 needs a training with callbacks=power_av"
    ):
        Trained.load(str(tmp_path / "plain"), 0.07, "cpu")

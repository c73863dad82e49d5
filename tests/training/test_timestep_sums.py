"""Losses by tenth of t: what is added up, what comes back, and the picture of it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ddiff.diffusion.objectives import Eps
from ddiff.diffusion.schedules import constant
from ddiff.diffusion.timesteps import OnlineTopK, TimestepSampler, Uniform
from ddiff.pages.plotting import timesteps_picture
from ddiff.system.precision import Precision
from ddiff.system.random import generator
from ddiff.training.callbacks import Timesteps
from ddiff.training.callbacks.timesteps import means
from ddiff.training.lr_schedules import warmup_constant
from ddiff.training.modules import DDPM
from ddiff.training.modules.tenths import by_tenth


def module(sampler: Callable[..., TimestepSampler]) -> DDPM:
    schedule = constant(50, 0.1)
    return DDPM(
        net=nn.Conv2d(1, 1, 1), schedule=schedule, objective=Eps(), timesteps=sampler(schedule),
        optimizer=torch.optim.Adam, lr_schedule=partial(warmup_constant, warmup_steps=1),
        precision=Precision("float32"), seed=0,
    )  # fmt: skip


def started(callback: Timesteps, pl_module: DDPM, rank: int = 0, world_size: int = 1) -> Any:
    trainer: Any = SimpleNamespace(global_rank=rank, world_size=world_size)
    callback.setup(trainer, pl_module, "fit")
    return trainer


def test_losses_by_tenth_are_those_that_were_fed(tmp_path: Path) -> None:
    callback, net = Timesteps(tmp_path / "t.png"), module(Uniform)
    trainer, g = started(callback, net), generator("cpu", "fed")
    callback.on_train_start(trainer, net)
    fed: dict[int, list[float]] = {}
    for batch in range(5):
        t = torch.randint(1, 41, (7,), generator=g)  # none in the last two tenths of 50
        losses = torch.rand(7, generator=g) * t
        outputs = {"t": t, "losses": losses, "short": 6}  # the last one learns a long step
        callback.on_train_batch_end(trainer, net, outputs, None, batch)
        for time, loss in zip(t[:6].tolist(), losses[:6].tolist(), strict=True):
            fed.setdefault((time - 1) // 5, []).append(loss)
    expected = [sum(fed[i]) / len(fed[i]) if i in fed else None for i in range(10)]
    assert expected[8:] == [None, None]
    found = means(callback.sums)
    assert [v is None for v in found] == [v is None for v in expected]
    assert found == [v and pytest.approx(v, rel=1e-6) for v in expected]


def test_a_loss_that_is_no_number_spoils_its_own_tenth_only() -> None:
    sums = by_tenth(torch.tensor([1, 2, 50]), 50, torch.tensor([1.0, 2.0, float("nan")]))
    assert means(sums)[:9] == [1.5] + [None] * 8
    assert sums[0, 9].isnan()


@pytest.mark.parametrize("T", [1, 2, 4, 7, 10, 15, 1000])
def test_every_timestep_has_its_tenth(T: int) -> None:
    counts = by_tenth(torch.arange(1, T + 1), T, torch.ones(T))[1]
    t = range(1, T + 1)
    expected = [sum(i * T <= 10 * (k - 1) < (i + 1) * T for k in t) for i in range(10)]
    assert counts.tolist() == expected


def test_sums_of_ranks_come_back_to_their_ranks(tmp_path: Path) -> None:
    net = module(OnlineTopK)
    saved = {"sums": torch.rand(3, 2, 10, generator=generator("cpu", "ranks"))}
    for world_size in (3, 2, 1):
        after = []
        for rank in range(world_size):
            callback = Timesteps(tmp_path / "t.png")
            started(callback, net, rank, world_size)
            callback.load_state_dict(saved)
            after.append(callback.sums)
        if world_size == 3:
            assert torch.equal(torch.stack(after), saved["sums"])
        torch.testing.assert_close(torch.stack(after).sum(0), saved["sums"].sum(0))


def test_the_picture_bears_anything() -> None:
    """One timestep, nothing measured yet, zeros, and losses that are no numbers."""
    for p, score, losses in (
        (np.ones(1), None, [None] * 10),
        (np.ones(4) / 4, np.zeros(4), [0.0] * 10),
        (np.ones(4) / 4, np.full(4, np.nan), [float("nan"), float("inf")] * 5),
        (np.eye(1, 1000)[0], np.geomspace(1e-9, 1e9, 1000), list(np.geomspace(1e-6, 1, 10))),
    ):
        pixels = timesteps_picture("a title", p, score, {"training": losses, "validation": losses})
        assert pixels.dtype == np.uint8
        assert pixels.shape == (720 if score is not None else 510, 800, 3)
        assert 5 < pixels.std() < 128

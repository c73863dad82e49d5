"""Immiscible diffusion: noise is assigned to the samples nearest to it."""

from itertools import permutations
from pathlib import Path

import pytest
import torch

from ddiff.system.random import generator
from ddiff.training.modules.ddpm import assigned
from tests.support.runs import TINY, forked


def distance(x: torch.Tensor, eps: torch.Tensor) -> float:
    return (x - eps).double().square().sum().item()


def test_the_assignment_is_the_nearest_of_all_orders() -> None:
    g = generator("cpu", "immiscible")
    x = torch.rand(6, 2, 3, generator=g) * 2 - 1
    eps = torch.randn(6, 2, 3, generator=g)
    found = assigned(x, eps)
    best = min(distance(x, eps[list(order)]) for order in permutations(range(6)))
    assert abs(distance(x, found) - best) < 1e-9
    assert sorted(found.flatten(1).sum(1).tolist()) == sorted(eps.flatten(1).sum(1).tolist())


def test_noise_next_to_its_sample_stays() -> None:
    x = torch.eye(5)
    assert torch.equal(assigned(x, x.flip(0)), x)


def test_a_training_uses_it(tmp_path: Path) -> None:
    """Under every backend, one whose kernels draw noise themselves included."""
    base = ("experiment=digits_ddpm", *TINY, "budget.batch_size=64", "budget.max_steps=3")
    losses = {}
    for backend in ("eager", "native"):
        for immiscible in ("false", "true"):
            run = f"{backend}_{immiscible}"
            done = forked(
                "train", *base, f"backend={backend}", f"module.immiscible={immiscible}",
                "logger=csv", f"run_dir={run}", cwd=tmp_path,
            )  # fmt: skip
            assert done.status == 0, done.err
            rows = (tmp_path / run / "metrics.csv").read_text().splitlines()
            losses[run] = [row for row in rows if "train/loss" in row]
    values = {run: [float(row.split(",")[-1]) for row in rows] for run, rows in losses.items()}
    assert values["eager_true"] == pytest.approx(values["native_true"], rel=1e-3)
    assert values["eager_true"] != pytest.approx(values["eager_false"], rel=1e-3)
    assert values["native_true"] != pytest.approx(values["native_false"], rel=1e-3)

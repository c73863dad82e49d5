"""A training of an autoencoder: its figures, its pictures, what is said where it does not fit."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ddiff.build import build
from ddiff.system.errors import DdiffError
from tests.support.runs import checkpoint, ddiff_many, differences, job, scalars

NET = ("experiment=autoencoder", "net.channels=[8,16]", "net.latent_channels=2")
SHORT = ("budget.batch_size=16", "budget.log_every=1", "budget.val_every=10")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("autoencoder")
    options = (*NET, *SHORT, "budget.max_steps=40", "precision=fp32", "backend=eager")
    (done,) = ddiff_many([job("train", *options, "run_dir=run")], cwd)
    assert (done.status, done.err) == (0, "")
    return cwd


def test_figures_are_those_of_the_averaged_net(world: Path) -> None:
    from ddiff.artifacts.trained import load_net

    net, options, _ = load_net(world / "run/checkpoints/last.ckpt")
    data = build(options.data)
    data.setup("fit")
    x, _ = data.val.batch(torch.arange(len(data.val)))
    x_hat, mean, log_variance = net(x, None)
    found = json.loads((world / "run/metrics.json").read_text())
    error = float((x_hat.clamp(-1, 1) - x).square().mean().sqrt())
    assert found["val/reconstruction"] == pytest.approx(error, rel=1e-4)
    assert found["val/psnr"] == pytest.approx(20 * math.log10(2 / error), rel=1e-4)
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    bits = float(torch.distributions.kl_divergence(posterior, prior).mean()) / math.log(2)
    assert found["val/rate"] == pytest.approx(bits, rel=1e-4)
    assert found["val/bits_per_sample"] == pytest.approx(bits * mean[0].numel(), rel=1e-4)
    assert list(scalars(world / "run", "val/reconstruction")) == [9, 19, 29, 39]
    losses = list(scalars(world / "run", "train/loss").values())
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_pictures_are_data_each_followed_by_its_reconstruction(world: Path) -> None:
    from sklearn.datasets import load_digits

    pictures = np.load(world / "run/samples/step_000040.npy")
    assert pictures.shape == (32, 1, 8, 8)
    data = {tuple((image / 8 - 1).flatten()) for image in load_digits().images}
    assert all(tuple(x.flatten()) in data for x in pictures[::2])
    error = np.sqrt(np.square(pictures[::2] - pictures[1::2]).mean())
    assert 0.02 < error < 0.8


def test_what_an_autoencoder_is_not_for_is_said_in_a_line(world: Path) -> None:
    from ddiff.artifacts.trained import Trained

    with pytest.raises(DdiffError, match=r"data=latent data\.run="):
        Trained.load(str(world / "run"))
    done = ddiff_many([job("sample", "run=run"), job("evaluate", "run=run")], world)
    assert [d.status for d in done] == [1, 1]
    assert all(d.err.count("\n") == 1 and "is an autoencoder" in d.err for d in done)


def test_other_verbs_and_a_budget_of_memory(world: Path) -> None:
    jobs = [
        job("train", *NET, *SHORT, "trainer=smoke", "memory_budget_gb=8", "run_dir=small"),
        job("benchmark", "experiment=autoencoder"),
        job("importance", "experiment=autoencoder", "out=scores.json"),
    ]
    small, *others = ddiff_many(jobs, world)
    assert (small.status, small.err) == (0, "")
    assert [d.status for d in others] == [2, 2]
    assert all("autoencoder" in d.err and d.err.count("\n") == 1 for d in others)


def test_a_kill_changes_nothing(tmp_path: Path) -> None:
    options = (*NET, *SHORT, "budget.max_steps=12", "budget.save_every=3")
    jobs = [
        job("train", *options, "run_dir=whole"),
        job("train", *options, "run_dir=killed", kill_at=8),
        job("train", "ckpt_path=killed"),
    ]
    assert [d.status for d in ddiff_many(jobs, tmp_path)] == [0, -9, 0]
    a, b = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed")
    for part in ("state_dict", "optimizer_states", "batches_seen", "global_step"):
        assert differences(a[part], b[part], part) == []
    for tag, number in (("train/loss", 12), ("train/rate", 12), ("val/reconstruction", 1)):
        expected = scalars(tmp_path / "whole", tag)
        assert len(expected) == number
        assert scalars(tmp_path / "killed", tag) == expected

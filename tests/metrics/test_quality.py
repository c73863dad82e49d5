"""What a user gets is good: trained from nothing, and measured by `evaluate`. Fewer steps than the
recipes take are enough to tell; experiments/ has the whole trainings."""

import json
from pathlib import Path

import pytest

from tests.support.runs import ddiff


def succeed(verb: str, *options: str, cwd: Path) -> None:
    done = ddiff(verb, *options, cwd=cwd, OMP_NUM_THREADS="2")
    assert done.status == 0, done.err


def figures(path: Path) -> dict[str, float]:
    return {f["name"]: f["value"] for f in json.loads(path.read_text())["figures"]}


@pytest.mark.slow
def test_digits_are_read_as_what_was_asked_for(tmp_path: Path) -> None:
    short = ("threads=1", "budget.sample_every=1000")
    succeed("train", "experiment=classifier", "budget.max_steps=300", *short, cwd=tmp_path)
    succeed(
        "train", "experiment=digits_cfg", "run_dir=run", "budget.max_steps=350", *short,
        cwd=tmp_path,
    )  # fmt: skip
    (classifier,) = tmp_path.glob("runs/classifier/*/metrics.json")
    assert json.loads(classifier.read_text())["val/accuracy"] >= 0.98
    succeed(
        "evaluate", "run=run", "threads=1", "num_samples=300", "batch_size=150", "out=digits.json",
        "metrics=[labels,precision_recall,memorisation]", cwd=tmp_path,
    )  # fmt: skip
    found = figures(tmp_path / "digits.json")
    assert found["accuracy"] >= 0.97
    assert found["precision"] >= 0.7
    assert found["recall"] >= 0.5  # ten different sevens, not one ten times
    assert 0.3 <= found["closer_to_train"] <= 0.6


@pytest.mark.slow
def test_spheres_are_spheres(tmp_path: Path) -> None:
    """voxel_adaptive at half the size, so in a minute or two; experiments/spheres has the whole."""
    succeed(
        "train", "experiment=voxel_adaptive", "data.size=32", "net.patch_size=2",
        "net.channels=[32,48,64]", "run_dir=run", "threads=1",
        "budget.batch_size=4", "budget.max_steps=450", "budget.sample_every=450", cwd=tmp_path,
    )  # fmt: skip
    succeed(
        "evaluate", "run=run", "threads=1", "num_samples=64", "out=spheres.json",
        "data.num_val=200", "metrics=[sphere_law,pieces,sets]", cwd=tmp_path,
    )  # fmt: skip
    found = figures(tmp_path / "spheres.json")
    assert found["validity"] >= 0.7
    assert found["one_piece"] >= 0.8
    assert found["centre_d"] < 0.25  # of places too narrow by half: 0.25
    assert found["radius_d"] < 0.25

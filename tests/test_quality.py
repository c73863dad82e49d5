"""What a user gets is good: trained from nothing, as the README says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.digits import accuracy, trained_reader
from tests.support.runs import ddiff
from tests.support.spheres import best_sphere


@pytest.mark.slow
def test_digits_are_read_as_what_was_asked_for(tmp_path: Path) -> None:
    """experiment=digits_cfg, a 10 x 10 grid with a class a row."""
    done = ddiff("train", "experiment=digits_cfg", "run_dir=run", cwd=tmp_path, OMP_NUM_THREADS="2")
    assert done.status == 0, done.err
    last = max((tmp_path / "run/samples").glob("*.npy"))
    samples = torch.from_numpy(np.load(last))
    assert samples.shape == (100, 1, 8, 8)
    reader, on_real = trained_reader()
    assert on_real >= 0.95
    assert accuracy(reader, samples, torch.arange(100) // 10) >= 0.95
    spread = samples.view(10, 10, 64).std(1).mean()
    assert spread > 0.1  # ten different sevens, not one ten times


@pytest.mark.slow
def test_spheres_are_spheres(tmp_path: Path) -> None:
    """voxel_baseline at half the size, so in a minute or two; the full size is measured in
    experiments/voxel_baseline."""
    done = ddiff(
        "train", "data.size=32", "net.patch_size=2", "net.channels=[32,48,64]", "run_dir=run",
        "budget.max_steps=600", "budget.sample_every=600", "sampling.num_samples=50",
        cwd=tmp_path, OMP_NUM_THREADS="2",
    )  # fmt: skip
    assert done.status == 0, done.err
    volumes = np.load(tmp_path / "run/samples/step_000600.npy")[:, 0]
    fits = [best_sphere(v) for v in volumes]
    assert np.mean([score >= 0.9 for score, _, _ in fits]) >= 0.9
    centres = np.array([centre for _, centre, _ in fits])
    assert np.abs(centres.mean(0) - 15.5).max() < 0.5
    radii = np.array([radius for _, _, radius in fits])
    assert radii.std() > 0.5  # the true law is uniform on 4 to 8: standard deviation 1.15

"""Samples depend on (seed, index), not on the batch they are drawn in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddiff.diffusion import ClassifierFree, objectives, schedules, solvers
from ddiff.errors import ConfigError
from ddiff.precision import Precision
from ddiff.sampling import Generation, labels_for
from tests.support.runs import TINY, ddiff_many, job


class Shrink(nn.Module):
    """x_0 = 0.9 x_t + 0.05 y: elementwise, so that batches cannot differ by rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        shift = 0 if y is None else 0.05 * y.view(-1, *[1] * (x.dim() - 1))
        return self.p * x + shift


@pytest.mark.parametrize("shape", [(1, 6, 5), (1, 4, 3, 5)], ids=["2D", "3D"])
@pytest.mark.parametrize("solver", [solvers.ddpm, solvers.ddim, solvers.dpmpp_2m_sde])
def test_sample_17_is_the_same_in_any_batch(shape: tuple[int, ...], solver) -> None:
    generation = Generation(
        net=Shrink(),
        shape=shape,
        num_classes=3,
        objective=objectives.X0(),
        plan=solver(schedules.cosine(100), num_steps=7),
        guidance=ClassifierFree(1.5),
        precision=Precision("float32"),
        seed=3,
    )
    y = labels_for("each", 24, 3)
    at_once = torch.cat(list(generation.batches(24, 64, y)))
    in_fives = torch.cat(list(generation.batches(24, 5, y)))
    alone = generation.batch([17], y[17:18])
    assert torch.equal(at_once, in_fives)
    assert torch.equal(at_once[17:18], alone)
    assert not torch.equal(at_once[16], at_once[17])


def test_labels() -> None:
    assert labels_for("each", 6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert labels_for("auto", 3, 3).tolist() == [0, 1, 2]
    assert labels_for([2, 0], 5, 3).tolist() == [2, 0, 2, 0, 2]
    assert labels_for(1, 2, 3).tolist() == [1, 1]
    assert labels_for("auto", 4, None) is None
    assert labels_for("none", 4, 3) is None
    for wrong in (3, -1, [0, 5], [], "two", 1.0, True):
        with pytest.raises(ConfigError, match=r"y: .*0\.\.2"):
            labels_for(wrong, 4, 3)


def test_the_sample_verb(tmp_path: Path) -> None:
    """Files of the right content; the run's own solver unless another is chosen."""
    train = ["experiment=digits_cfg", *TINY, "budget.max_steps=2", "run_dir=run", "precision=fp32"]
    three = ["experiment=voxel_baseline", *TINY, "budget.max_steps=2", "run_dir=solid"]
    three += ["data.size=16", "data.num=8", "net.patch_size=2"]
    done = ddiff_many(
        [
            job("train", *train),
            job("sample", "from=run", "num_samples=7", "batch_size=3", "out=a"),
            job("sample", "from=run", "num_samples=7", "batch_size=7", "out=b.npy"),
            job("sample", "from=run/checkpoints/best.ckpt", "solver=dpmpp_2m", "num_samples=2",
                "solver.num_steps=5", "guidance.scale=0", "y=3", "weights=net"),
            job("train", *three),
            job("sample", "from=solid", "num_samples=3", "out=solids", "mesh=obj"),
            job("view", "path=solids.npy"),
            job("view", "path=run"),
        ],
        tmp_path,
    )  # fmt: skip
    assert [(d.status, d.err) for d in done] == [(0, "")] * len(done)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert a.shape == (7, 1, 8, 8)
    assert a.dtype == np.float32
    assert np.abs(a - b).max() < 1e-5
    assert np.abs(a).max() <= 1
    assert np.load(tmp_path / "run/samples/dpmpp_2m5_2.npy").shape == (2, 1, 8, 8)
    assert np.load(tmp_path / "solids.npy").shape == (3, 1, 16, 16, 16)
    names = {p.name for p in tmp_path.iterdir()}
    pictures = {"a.npy", "a.png", "b.npy", "b.png", "solids.npy", "solids.png"}
    meshes = {"solids_0000.obj", "solids_0001.obj", "solids_0002.obj"}
    views = {"solids_view.png", "solids_view.html"}
    assert names == {"run", "solid"} | pictures | meshes | views

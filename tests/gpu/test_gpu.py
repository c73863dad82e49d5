"""The same promises on a GPU. Run by `make gpu`; skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.gpu import DRY, NAME, needs_gpu, not_dry
from tests.support.runs import TINY, checkpoint, ddiff, differences, forked, scalars

pytestmark = needs_gpu

DATA = {
    "2D": ("experiment=digits_cfg",),
    "3D": ("experiment=voxel_baseline", "data.size=32", "data.num=64"),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16", "auto"])
def test_trains_and_samples(kind: str, precision: str, tmp_path: Path) -> None:
    if DRY and precision in ("tf32", "fp16"):
        pytest.skip(f"not in a dry run: no CPU trains in {precision}")
    options = [
        *DATA[kind],
        *TINY,
        f"trainer={NAME}",
        f"precision={precision}",
        "budget.max_steps=12",
    ]
    done = forked("train", *options, "run_dir=run", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    losses = scalars(tmp_path / "run", "train/loss")
    assert np.isfinite(list(losses.values())).all()
    done = forked("sample", "run=run", "num_samples=5", "batch_size=2", "out=a", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert np.abs(np.load(tmp_path / "a.npy")).max() <= 1


@pytest.mark.parametrize("kind", DATA)
def test_resumes_exactly(kind: str, tmp_path: Path) -> None:
    options = [
        *DATA[kind],
        *TINY,
        f"trainer={NAME}",
        "budget.save_every=5",
        "+trainer.deterministic=true",
    ]
    env = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    for words in (
        ["budget.max_steps=12", "run_dir=whole"],
        ["budget.max_steps=5", "lr_schedule.total_steps=12", "run_dir=parts"],
    ):
        done = ddiff("train", *options, *words, cwd=tmp_path, **env)
        assert (done.status, done.err) == (0, "")
    done = ddiff("train", "ckpt_path=parts", "budget.max_steps=12", cwd=tmp_path, **env)
    assert (done.status, done.err) == (0, "")
    a, b = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    for part in ("state_dict", "optimizer_states"):
        assert differences(a[part], b[part]) == []


@not_dry("its compilation takes minutes, and tests/backends has it on a CPU")
def test_compiled_samples_are_the_eager_ones(tmp_path: Path) -> None:
    options = [*DATA["3D"], *TINY, "trainer=gpu", "precision=fp32", "budget.max_steps=4"]
    assert forked("train", *options, "run_dir=run", cwd=tmp_path).status == 0
    for backend in ("eager", "compiled"):
        words = ["run=run", "num_samples=4", f"backend={backend}", f"out={backend}"]
        done = forked("sample", *words, cwd=tmp_path)
        assert done.status == 0, done.err
    eager, compiled = (np.load(tmp_path / f"{b}.npy") for b in ("eager", "compiled"))
    assert np.abs(eager - compiled).max() < 1e-3

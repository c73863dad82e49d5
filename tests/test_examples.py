"""Every script of examples/ runs, and makes what it says."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
RUN = str(Path(__file__).parent / "old_runs/pictures")
CASES = {  # script: its arguments, its files, words of its output
    "train_on_tensors.py": (["--steps", "2"], ["digits.png"], "step 2: loss"),
    "sample_a_run.py": ([RUN], ["samples.png"], "arrays of (20, 1, 8, 8)"),
    "own_solver.py": ([RUN], ["own_solver.png"], "40 samples"),
    "own_guidance.py": ([RUN], ["own_guidance.png"], "a row for each class"),
    "volumes_from_an_array.py": (
        ["--steps", "2"],
        ["volumes.png", "volumes.npy"],
        "eight samples",
    ),
    "compare_two.py": (["--steps", "2", "--seeds", "2"], [], "standard error"),
}


def test_every_example_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_it_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments, files, words = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert words in capsys.readouterr().out
    for file in files:
        if file.endswith(".png"):
            assert np.asarray(Image.open(tmp_path / file)).std() > 5
        else:
            assert np.isfinite(np.load(tmp_path / file)).all()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_it_is_short(path: Path) -> None:
    assert 20 <= len(path.read_text().splitlines()) <= 65

"""`python -m ddiff.view`, from the outside."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.pages.view.solids import ball


def view(folder, *arguments):
    command = [sys.executable, "-m", "ddiff.view", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_picture_and_page_are_written_beside_the_volumes(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([ball(5.0, 16)] * 3) > 0)
    done = view(tmp_path, "path=a.npy", "columns=3", "size=64")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(tmp_path / f"a_view.{end}") for end in ("png", "html")]
    with Image.open(tmp_path / "a_view.png") as image:
        assert image.size == (3 * 66 + 2, 66 + 2)
    assert "a.npy: 3 volumes" in (tmp_path / "a_view.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a_view.html", "a_view.png"]


def test_a_run_and_a_place_to_write_to(tmp_path):
    (tmp_path / "run/samples").mkdir(parents=True)
    np.save(tmp_path / "run/samples/step_000010.npy", np.zeros((2, 1, 8, 8)))
    done = view(tmp_path, "path=run", "out=shown/first.png", "page=false")
    assert done.stdout.split() == ["shown/first.png"]
    with Image.open(tmp_path / "shown/first.png") as image:
        assert image.getpixel((10, 10)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["path=missing.npy"], 1, "missing.npy: no such file or folder"),
        (["path=a.npy", "columns=0"], 2, "columns: 0 is less than 1"),
        (["path=a.npy", "num=none"], 2, "num: 'none' is not an integer"),
        (["path=a.npy", "azimut=3"], 2, "did you mean 'azimuth'?"),
        ([], 2, "path"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, status, words):
    np.save(tmp_path / "a.npy", np.zeros((1, 1, 4, 4)))
    done = view(tmp_path, *arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_torch_is_not_imported():
    code = "import sys, ddiff.view, ddiff.pages.view.reading; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""The wheel, in a new environment, from an empty directory, without the checkout."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.runs import TINY

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    run("git", "clone", "-q", ROOT, source, cwd=tmp_path)  # committed files only, as released
    run(sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", tmp_path, source,
        cwd=tmp_path)  # fmt: skip
    (wheel,) = tmp_path.glob("ddiff-*.whl")
    names = ZipFile(wheel).namelist()
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"ddiff/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert "ddiff/kernels/__init__.py" in names
    assert {"ddiff/viewing/page.html", "ddiff/reporting/report.css"} <= set(names)

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel,
        cwd=tmp_path)  # fmt: skip
    # the dependencies of this environment, but not its editable ddiff, whose hook stays unread
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python, empty = tmp_path / "env/bin/python", tmp_path / "empty"
    empty.mkdir()
    where = run(python, "-c", "import ddiff.conf; print(ddiff.__file__, *ddiff.conf.__path__)",
                cwd=empty)  # fmt: skip
    assert all(Path(p).is_relative_to(site) for p in where.split())
    options = ["experiment=digits_cfg", *TINY, "budget.max_steps=2"]
    run(python, "-m", "ddiff.train", *options, "run_dir=run", cwd=empty)
    run(python, "-m", "ddiff.sample", "from=run", "num_samples=4", cwd=empty)
    run(python, "-m", "ddiff.view", "path=run", cwd=empty)
    assert (empty / "run/samples/ddim2_w0.25_4.png").is_file()

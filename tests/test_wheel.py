"""Installing: the wheel, from an empty directory without the checkout; and an editable install,
from a directory that holds a folder named ddiff."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import ddiff
from tests.support.runs import TINY, checkpoint
from tests.support.runs import ddiff as command

ROOT = Path(__file__).parents[1]
DIGITS = ("experiment=digits_cfg", *TINY, "budget.max_steps=2")


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def clone(folder: Path) -> Path:
    """Committed files only, as released."""
    run("git", "clone", "-q", ROOT, folder, cwd=ROOT)
    return folder


def environment_with(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """Python and site-packages of a new environment with this wheel in it.

    It has the dependencies of this environment, not its editable ddiff, whose hook stays unread.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel,
        cwd=folder)  # fmt: skip
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return folder / "env/bin/python", site


@pytest.mark.slow
def test_the_wheel_works_alone(tmp_path: Path) -> None:
    source = clone(tmp_path / "source")
    run(sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", tmp_path, source,
        cwd=tmp_path)  # fmt: skip
    (wheel,) = tmp_path.glob("ddiff-*.whl")
    names = ZipFile(wheel).namelist()
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"ddiff/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert "ddiff/kernels/__init__.py" in names
    assert {"ddiff/pages/view/page.html", "ddiff/pages/report/report.css"} <= set(names)

    python, site = environment_with(wheel, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    where = run(python, "-c", "import ddiff.conf; print(ddiff.__file__, *ddiff.conf.__path__)",
                cwd=empty)  # fmt: skip
    assert all(Path(p).is_relative_to(site) for p in where.split())
    run(python, "-m", "ddiff.train", *DIGITS, "run_dir=run", cwd=empty)
    run(python, "-m", "ddiff.sample", "run=run", "num_samples=4", cwd=empty)
    run(python, "-m", "ddiff.view", "path=run", cwd=empty)
    assert (empty / "run/samples/ddim2_w0.25_4.png").is_file()


@pytest.mark.slow
def test_an_editable_install_beside_folders_of_its_name(tmp_path: Path) -> None:
    """A training from the folder that holds the clone, and from one with an empty ddiff/."""
    source = clone(tmp_path / "ddiff")
    build = "import sys; from setuptools.build_meta import build_editable as b; b(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=source)
    python, _ = environment_with(next(tmp_path.glob("ddiff-*.whl")), tmp_path)
    (tmp_path / "other/ddiff").mkdir(parents=True)
    show = "import ddiff, ddiff.conf, ddiff.kernels as k; print(ddiff.conf.__file__, k.__file__)"
    for cwd in (tmp_path, tmp_path / "other"):
        found = run(python, "-c", show, cwd=cwd).split()
        assert found == [f"{source}/src/ddiff/{name}/__init__.py" for name in ("conf", "kernels")]
    run(python, "-m", "ddiff.train", *DIGITS, "run_dir=run", cwd=tmp_path)
    run(python, "-m", "ddiff.train", "ckpt_path=../run", "budget.max_steps=3",
        cwd=tmp_path / "other")  # fmt: skip
    saved = checkpoint(tmp_path / "run")
    assert (saved["global_step"], saved["ddiff"]["version"]) == (3, ddiff.__version__)


@pytest.mark.slow
def test_this_environment_beside_an_empty_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "ddiff").mkdir()
    done = command("train", *DIGITS, "run_dir=run", cwd=tmp_path)
    assert done.status == 0, done.err
    assert checkpoint(tmp_path / "run")["ddiff"]["version"] == ddiff.__version__


def test_every_package_is_listed() -> None:
    """Packages that pyproject.toml leaves out are missing from the wheel alone."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        Path(folder).relative_to(ROOT / "src").as_posix().replace("/", ".")
        for folder, _, names in os.walk(ROOT / "src/ddiff", followlinks=True)
        if "__init__.py" in names
    }
    assert found == set(listed)

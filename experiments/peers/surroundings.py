"""The peers' own environment, beside the very torch that ddiff is tested with.

It holds diffusers, MONAI and what they need that ddiff does not; the rest, torch above all, is that
of the environment it is made from, which a line in a .pth file adds to its path.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

from ddiff.system.errors import DdiffError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv-peers"
PINS = (HERE / "requirements.txt", ROOT / "constraints.txt", ROOT / "pyproject.toml",
        Path(__file__))  # fmt: skip
PACKAGES = sysconfig.get_path("purelib")  # of the environment that this one is made from
LOOK = """
import importlib.metadata as m, importlib.util, json
names = ("torch", "diffusers", "monai", "torchvision", "ddiff")
print(json.dumps({n: m.version(n) if importlib.util.find_spec(n) else None for n in names}))
"""


def prepared() -> Path:
    """The interpreter of .venv-peers, made or renewed where its pins have changed."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "pins"
    pins = "".join(path.read_text() for path in PINS)
    if not (stamp.is_file() and stamp.read_text() == pins):
        run(sys.executable, "-m", "venv", "--clear", FOLDER)
        (packages,) = FOLDER.glob("lib/python*/site-packages")
        (packages / "beside.pth").write_text(f"import site; site.addsitedir({PACKAGES!r})\n")
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q")
        run(*pip, "-c", ROOT / "constraints.txt", "-r", HERE / "requirements.txt")
    checked(versions(python))
    stamp.write_text(pins)
    return python


def versions(python: Path) -> dict[str, str | None]:
    """Versions of the relevant packages, in the environment of this interpreter."""
    done = subprocess.run([python, "-c", LOOK], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def checked(found: dict[str, str | None]) -> None:
    """Another torch would make another comparison, and torchvision breaks a CPU-only one."""
    if found["torch"] != torch.__version__:
        raise DdiffError(
            f"{FOLDER} has torch {found['torch']}, and this is torch {torch.__version__}; "
            "the same build must serve both: see constraints.txt, and remove the folder"
        )
    if found["torchvision"] is not None:
        raise DdiffError(
            f"{FOLDER} has torchvision {found['torchvision']}, which neither peer needs and which "
            "does not import beside every torch; remove the folder"
        )


def run(*command: str | Path) -> None:
    print("$", *command, flush=True)
    if subprocess.run(command).returncode:
        raise DdiffError(f"failed: {' '.join(map(str, command))}")

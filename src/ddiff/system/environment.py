"""The environment of a run: versions, device, git commit, command line."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("ddiff", "torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy")


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions, device, git commit of ddiff's own source (None for a wheel), command line."""
    ours = _git("ls-files", "--error-unmatch", __file__) is not None  # not the user's repository
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": _git("rev-parse", "HEAD") if ours else None,
        "git_dirty": ours and bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def version_of(name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    """Output of a git command in this file's folder; None if git fails."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        done = subprocess.run([*here, *command], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()

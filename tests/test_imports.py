"""Who may import whom: the core knows torch and the standard library, nothing else."""

import ast
import sys
from pathlib import Path

import pytest

import ddiff

PACKAGE = Path(ddiff.__file__).parent
CORE = ["diffusion", "nets", "kernels"]
CORE_MAY = {"torch", *sys.stdlib_module_names} | {
    f"ddiff.{name}" for name in (*CORE, "bounds", "errors", "random")
}
VIEWING_MAY_NOT = {"torch", "lightning", "pytorch_lightning"}
HYDRA_ONLY_IN = {"cli", "config"}  # and in the files at the top of the package


def imports(source: str, package: str) -> set[str]:
    """Full dotted names of everything imported anywhere in the source of a module of `package`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(
                (parents if node.level else []) + ([node.module] if node.module else [])
            )
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def within(name: str, allowed: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:i]) in allowed for i in range(1, len(parts) + 1))


def imports_of(path: Path) -> set[str]:
    package = ".".join(("ddiff", *path.relative_to(PACKAGE).parent.parts))
    return imports(path.read_text(encoding="utf-8"), package)


def modules(*folders: str) -> list:
    """Every module below these folders of the package (all modules where none is given)."""
    roots = [PACKAGE / folder for folder in folders] or [PACKAGE]
    paths = sorted(path for root in roots for path in root.rglob("*.py"))
    return [pytest.param(path, id=path.relative_to(PACKAGE).as_posix()) for path in paths]


@pytest.mark.parametrize("path", modules(*CORE))
def test_the_core_imports_only_torch_and_the_standard_library(path):
    if path.name == "__main__.py":  # an entry point
        return
    assert {name for name in imports_of(path) if not within(name, CORE_MAY)} == set()


@pytest.mark.parametrize(
    "path", [PACKAGE / f"{name}.py" for name in ("bounds", "errors", "random")]
)
def test_what_the_core_leans_on_leans_on_nothing(path):
    allowed = {"torch", *sys.stdlib_module_names}
    assert {name for name in imports_of(path) if not within(name, allowed)} == set()


@pytest.mark.parametrize("path", modules("viewing"))
def test_viewing_needs_no_torch(path):
    assert {name for name in imports_of(path) if within(name, VIEWING_MAY_NOT)} == set()


@pytest.mark.parametrize("path", modules())
def test_hydra_stays_at_the_entry_points(path):
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1 or parts[0] in HYDRA_ONLY_IN or path.name == "__main__.py":
        return
    assert {name for name in imports_of(path) if within(name, {"hydra"})} == set()


def test_the_reader_of_imports_sees_every_form():
    source = """
import os.path, numpy as np
from torch import nn
from ddiff import errors
from . import schedules
from .. import data
from ..nets.unet import UNet
def late():
    import hydra.utils
"""
    found = imports(source, "ddiff.diffusion")
    assert found == {
        "os.path",
        "numpy",
        "torch.nn",
        "ddiff.errors",
        "ddiff.diffusion.schedules",
        "ddiff.data",
        "ddiff.nets.unet.UNet",
        "hydra.utils",
    }
    refused = {name for name in found if not within(name, CORE_MAY)}
    assert refused == {"numpy", "ddiff.data", "hydra.utils"}


def test_the_core_was_found():
    assert {path.values[0].name for path in modules("diffusion")} >= {"schedules.py", "solvers.py"}
    assert {path.values[0].name for path in modules("kernels")} >= {"building.py", "reference.py"}

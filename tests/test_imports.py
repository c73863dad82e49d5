"""Each room imports only rooms on the floors below it: the table in docs/design.md decides."""

import ast
import re
import sys
from pathlib import Path

import pytest

import ddiff

PACKAGE = Path(ddiff.__file__).parent
TABLE = Path(__file__).parents[1] / "docs/design.md"
CORE = ["diffusion", "nets", "kernels"]
CORE_MAY = {"torch", *sys.stdlib_module_names} | {
    f"ddiff.{name}"
    for name in (
        *CORE,
        *(f"system.{n}" for n in ("bounds", "errors", "files", "phases", "random", "told")),
    )
}
WITHOUT_TORCH = ("pages", "config")
HEAVY = {"torch", "lightning", "pytorch_lightning"}
# nothing below the verbs knows Hydra
KNOW_HYDRA = ("config",)


def floors() -> dict[str, int]:
    """{room: floor}, as docs/design.md shows them."""
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", TABLE.read_text(encoding="utf-8"), re.M)
    return {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)`", rooms)}


FLOORS = floors()
VERBS = max(FLOORS.values())


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


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def modules(*folders: str) -> list:
    """Every module below these folders of the package (all modules where none is given)."""
    roots = [PACKAGE / f for f in folders] or [p for p in PACKAGE.iterdir() if p.is_dir()]
    paths = {path for root in roots for path in root.rglob("*.py")}
    if not folders:
        paths |= set(PACKAGE.glob("*.py"))
    return [pytest.param(path, id=path.relative_to(PACKAGE).as_posix()) for path in sorted(paths)]


def test_the_table_holds_every_room():
    there = {room_of(path.relative_to(PACKAGE).parts) for path in (p.values[0] for p in modules())}
    assert there - {"__init__", "__main__"} == set(FLOORS)


@pytest.mark.parametrize("path", modules())
def test_a_room_imports_only_rooms_below_it(path):
    parts = path.relative_to(PACKAGE).parts
    room = room_of(parts)
    floor = VERBS + 1 if path.name in ("__main__.py", "__init__.py") and len(parts) == 1 else 0
    floor = floor or (VERBS if path.name == "__main__.py" else FLOORS[room])
    names = {tuple(name.split(".")[1:]) for name in imports_of(path) if name.startswith("ddiff.")}
    others = {room_of(name) for name in names if name} & FLOORS.keys() - {room}
    assert {other for other in others if FLOORS[other] >= floor} == set()


@pytest.mark.parametrize("path", modules(*CORE))
def test_the_core_imports_only_torch_and_the_standard_library(path):
    if path.name == "__main__.py":  # an entry point
        return
    assert {name for name in imports_of(path) if not within(name, CORE_MAY)} == set()


@pytest.mark.parametrize("path", modules(*WITHOUT_TORCH))
def test_looking_and_checking_need_no_torch(path):
    assert {name for name in top_level_imports(path) if within(name, HEAVY)} == set()


def top_level_imports(path: Path) -> set[str]:
    """What a module imports as soon as it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports(ast.unparse(ast.Module(body, [])), "ddiff")


@pytest.mark.parametrize("path", modules())
def test_hydra_stays_at_the_entry_points(path):
    place = path.relative_to(PACKAGE).as_posix()
    if "/" not in place or place.startswith(KNOW_HYDRA) or path.name == "__main__.py":
        return
    found = {name for name in imports_of(path) if within(name, {"hydra"})}
    assert found - {"hydra.core.config_store.ConfigStore"} == set()


def test_the_reader_of_imports_sees_every_form():
    source = """
import os.path, numpy as np
from torch import nn
from ddiff.system import errors
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
        "ddiff.system.errors",
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

"""Plain words: a docstring starts with what the thing is, does or returns."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src/ddiff", "kernels", "experiments", "examples", "docs")
NAMES_NOTHING = re.compile(
    r"(it|its|they|their|that|these|of|in|by|with|for|from|to|at|on|as|whether|what|how|where|which"
    r"|who|whose|and|but|if|when|because|unless|so|then|there|here|after|before|while|until|under"
    r"|over|between|within|without|about|like|than|is|are|was|were|once|only|also)\b",
    re.IGNORECASE,
)


def docstrings(path: Path) -> list[tuple[str, str]]:
    """Names of the module, its classes and functions, each with its docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, kinds)]
    return [(getattr(n, "name", "module"), ast.get_docstring(n) or "") for n in nodes]


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_name_their_subject(folder: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}: {text}"
        for path in (ROOT / folder).rglob("*.py")
        for name, text in docstrings(path)
        if text
    }
    assert len(found) >= 5
    assert [one for one in found if NAMES_NOTHING.match(one.split(": ", 2)[2])] == []

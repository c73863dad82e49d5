from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ddiff.artifacts.writing import Exported
from tests.artifacts.worlds import Make, export_of, make_run


@pytest.fixture(scope="package", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where it is noted which files were exported here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("DDIFF_TRUST", raising=False)
        yield


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: make_run(folder / kind, kind) for kind in ("2D", "3D", "dit", "few", "told")}


@pytest.fixture(scope="package")
def exported(runs: dict[str, Path]) -> Make:
    """exported(kind, format, precision, **options), made once."""

    @cache
    def once(kind: str, name: str, precision: str, **options: Any) -> Exported:
        return export_of(runs[kind], name, precision, **options)

    def make(kind: str, name: str, precision: str = "fp32", **options: Any) -> Exported:
        return once(kind, name, precision, **options)

    return make

from pathlib import Path

import pytest

from ddiff.pages.report.comparison import find_runs
from ddiff.system.errors import DdiffError
from tests.pages.report.made import run


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found]


@pytest.fixture
def root(tmp_path):
    for name in ("a/2026_1", "a/2026_2", "b/sweep/0", "b/sweep/1"):
        run(tmp_path / name)
    (tmp_path / "b/sweep/multirun.yaml").write_text("hydra: {}")
    (tmp_path / "b/costs.json").write_text("{}")
    inner = tmp_path / "a/2026_1/checkpoints/copy"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text("seed: 1")
    (inner / "samples").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/config.yaml").write_text("seed: 1")
    return tmp_path


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["a/2026_1"], ["a/2026_1"]),
        (["a"], ["a/2026_1", "a/2026_2"]),
        (["b"], ["b/sweep/0", "b/sweep/1"]),
        (["b/*"], ["b/sweep/0", "b/sweep/1"]),
        (["a/*_2", "b/sweep/0"], ["a/2026_2", "b/sweep/0"]),
        (["a/2026_2", "a"], ["a/2026_2", "a/2026_1"]),
        ([""], ["a/2026_1", "a/2026_2", "b/sweep/0", "b/sweep/1"]),
    ],
)
def test_runs_are_found_once_and_in_order(root, places, expected):
    assert names(find_runs([str(root / place) for place in places]), root) == expected


def test_the_same_run_by_another_way_is_one(root, monkeypatch):
    monkeypatch.chdir(root)
    assert find_runs(["a/2026_1", str(root / "a/2026_1"), "b/../a/2026_1"]) == [Path("a/2026_1")]


@pytest.mark.parametrize(
    ("place", "words"),
    [("nowhere", "nowhere: no such folder"), ("no*", "no such folder"), ("configs", "no run in it"),
     ("b/costs.json", "no such folder")],
)  # fmt: skip
def test_where_there_is_none_it_says_so(root, place, words):
    with pytest.raises(DdiffError, match=words):
        find_runs([str(root / "a"), str(root / place)])

"""What changed between two profiles: on paper, and on the page in a real browser."""

import json

import pytest

from ddiff.pages.report.comparison import compare
from ddiff.pages.report.page import write_report
from ddiff.pages.report.text import Table, changes, markdown, print_tables
from tests.pages.report.made import run
from tests.support.browser import BROWSER, browser


def profile(forward, operators, peak=100.0, **more):
    total = forward + 2.0
    phases = {
        "forward": {"ms": forward, "share": forward / total},
        "other": {"ms": 2.0, "share": 0},
    }
    step = {"mean": total, "p50": total, "p90": total, "p99": 2 * total}
    listed = [{"name": n, "shapes": s, "phase": "forward", "ms": ms, "device_ms": 0.0}
              for n, s, ms in operators]  # fmt: skip
    memory = {"peak": peak, "at_peak": {"weights": 60.0, "activations": peak - 60}}
    return {"device": "cpu", "phases": phases, "step_ms": step, "operators": listed,
            "memory_mb": memory, **more}  # fmt: skip


def put(path, value, folder="profile"):
    (path / folder).mkdir(parents=True)
    (path / folder / "profile.json").write_text(json.dumps(value))


@pytest.fixture
def place(tmp_path):
    """One run before, one after: the forward pass is halved, one operator replaced."""
    a = run(tmp_path / "runs/a")
    put(a, profile(40.0, [("conv", "8x8", 20.0), ("conv", "4x4", 5.0), ("norm", "8x8", 10.0)]))
    b = run(tmp_path / "runs/b", objective___target_="x.Eps")
    put(b, profile(20.0, [("conv", "8x8", 12.5), ("fused", "8x8", 4.0)], peak=80.0))
    run(tmp_path / "runs/c", objective___target_="x.X0")
    return tmp_path


def test_differences_are_those_of_the_numbers(place):
    (change,) = changes(compare([str(place / "runs")]))
    assert change.title == "training: V → Eps"
    phases, operators, memory = change.tables
    assert phases.rows[:3] == [("forward", 40, 20), ("other", 2, 2), ("step, mean", 42, 22)]
    assert phases.rows[-1] == ("step, p99", 84, 44)
    assert operators.rows == [("conv", 25, 12.5), ("norm", 10, None), ("fused", None, 4)]
    assert memory.rows == [("weights", 60, 60), ("activations", 40, 20), ("peak", 100, 80)]


def test_without_operators_there_are_phases_alone(place):
    path = place / "runs/b/profile/profile.json"
    value = json.loads(path.read_text())
    del value["operators"], value["memory_mb"]
    path.write_text(json.dumps(value))
    (change,) = changes(compare([str(place / "runs")]))
    assert [table.title for table in change.tables] == ["phase, ms a step"]


def test_samplings_are_compared_by_name(place):
    for name, ms in (("a", 10.0), ("b", 5.0)):
        put(place / f"runs/{name}", profile(ms, []), "samples/ddim50_64_profile")
    put(place / "runs/b", profile(1.0, []), "samples/other_profile")
    found = changes(compare([str(place / "runs")]))
    titles = ["training: V → Eps", "sampling ddim50_64: V → Eps"]
    assert [change.title for change in found] == titles
    assert found[1].tables[0].rows[0] == ("forward", 10, 5)


def test_a_difference_in_words():
    table = Table("phase", [("a", 40.0, 20.0), ("b", None, 4.0), ("c", 3.0, None)])
    assert table.words == [
        ["a", "40", "20", "-20 (-50%)"], ["b", "–", "4", "+4"], ["c", "3", "–", "-3"]]  # fmt: skip


def test_one_profile_alone_says_nothing_and_a_broken_one_is_said(place):
    (place / "runs/b/profile/profile.json").write_text('{"torn": 1}')
    comparison = compare([str(place / "runs")])
    assert changes(comparison) == []
    assert any("profile/profile.json is not a profile" in line for line in comparison.troubles)


def test_who_watched_makes_no_other_group(tmp_path):
    for seed, name in enumerate(("Off", "Torch")):
        run(tmp_path / f"runs/{name}", seed=seed, profiler___target_=f"ddiff.profiling.{name}")
    assert len(compare([str(tmp_path / "runs")]).groups) == 1


def test_text_and_terminal_say_it(place, capsys):
    comparison = compare([str(place / "runs")])
    text = markdown(comparison, [], "x.html")
    assert "## What changed in the profile: training: V → Eps" in text
    assert "| forward | 40 | 20 | -20 (-50%) |" in text
    assert "| norm | 10 | – | -10 |" in text
    print_tables(comparison)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv", "25", "12.5", "-12.5", "(-50%)"] in lines


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_the_page_shows_and_sorts_it(place, tmp_path_factory):
    page = write_report(compare([str(place / "runs")]), [None] * 3, place / "report.html")
    with browser(tmp_path_factory.mktemp("profile")) as one:
        one.open(page, "document.documentElement?.dataset.state === 'ready'")
        rows = """[...document.querySelectorAll('#profiles table')].map((table) =>
            [...table.querySelectorAll('tbody tr')].map((row) =>
                [...row.cells].map((cell) => cell.firstChild.textContent)))"""
        phases, operators, _ = one.js(rows)
        assert phases[0] == ["forward", "40", "20", "-20"]
        assert operators[1:] == [["norm", "10", "–", "-10"], ["fused", "–", "4", "+4"]]
        one.click("#profiles table:nth-of-type(1) th:nth-child(4) button")
        assert [row[3] for row in one.js(rows)[0]] == ["-40", "-20", "-20", "-20", "-20", "0"]
        assert one.complaints == []
        one.resize(420, 900)
        assert one.js("document.documentElement.scrollWidth") == 420

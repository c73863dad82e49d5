"""The report's page in a real browser: clicked, dragged and looked at."""

import numpy as np
import pytest

from ddiff.pages.report.comparison import compare
from ddiff.pages.report.figures import front
from ddiff.pages.report.page import found_samples, write_report
from ddiff.pages.report.plots import weighed
from tests.pages.report.made import ball, evaluate, figure, run, samples
from tests.support.browser import BROWSER, browser

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")

READY = "document.documentElement?.dataset.state === 'ready'"
TITLE = 'runs <b>"&amp;</b>'
ROWS = (
    "[...document.querySelectorAll('#runs tbody tr')].map((row) => row.cells[0].innerText.trim())"
)
LINES = "[...document.querySelectorAll('#curves .line')].map((line) => line.dataset.label)"
DOTS = "[...document.querySelectorAll('#pareto .dot')].map((dot) => dot.dataset.label)"
CARDS = """[...document.querySelectorAll('#samples figure')].filter((card) => !card.hidden)
    .map((card) => card.querySelector('span').innerText)"""


def written(root, title=TITLE):
    comparison = compare([str(root / "runs")], title)
    found = found_samples(comparison, 16)
    return comparison, write_report(comparison, found, root / "report.html")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two seeds that cost more and are better late; a cheap one; one without figures, of solids."""
    root = tmp_path_factory.mktemp("report")
    for seed, shift in ((1, 0.0), (2, 1.0)):
        path = run(root / f"runs/a{seed}", seed=seed, losses=(0.5, 0.4, 0.3, 0.2))
        for step, fid in ((10, 20.0), (20, 10.0), (40, 4.0)):
            evaluate(path, f"step_{step}", [figure(value=fid + shift)], step)
        samples(path, np.linspace(-1, 1, 16 * 64).reshape(16, 1, 8, 8))
    path = run(root / "runs/b", timesteps___target_="x.TopK", timesteps__k=2)
    for step, fid in ((10, 12.0), (40, 11.0)):
        evaluate(path, f"step_{step}", [figure(value=fid)], step, seconds=step / 8)
    samples(path, np.linspace(1, -1, 16 * 64).reshape(16, 1, 8, 8))
    path = run(root / "runs/c", timesteps___target_="x.Speed")
    samples(path, np.stack([ball(5.0), ball(4.0)]))
    return written(root)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def page(made, chromium):
    chromium.complaints.clear()
    chromium.resize(1240, 1000)
    chromium.open(made[1], READY)
    yield chromium
    assert chromium.complaints == []
    assert chromium.js("document.getElementById('trouble').textContent") == ""


def test_it_opens_under_its_title(page):
    assert page.js("document.querySelector('h1').textContent") == TITLE
    assert page.js("document.title") == TITLE
    assert page.js(ROWS) == ["Uniform", "TopK", "Speed"]
    assert page.js(CARDS) == ["Uniform, seed 1", "TopK", "Speed"]


def test_a_click_on_a_head_sorts_and_what_is_missing_stays_last(page):
    heads = page.js("[...document.querySelectorAll('#runs th')].map((head) => head.innerText)")
    head = f"#runs th:nth-child({heads.index('fid') + 1})"
    cells = f"[...document.querySelectorAll('#runs td:nth-child({heads.index('fid') + 1})')]"
    page.click(f"{head} button")
    assert page.js(ROWS) == ["Uniform", "TopK", "Speed"]
    assert page.js(f"document.querySelector('{head}').ariaSort") == "ascending"
    assert page.js(f"document.querySelector('{head} .arrow').innerText") == "▲"
    page.click(f"{head} button")
    assert page.js(ROWS) == ["TopK", "Uniform", "Speed"]
    assert page.js(f"document.querySelector('{head} .arrow').innerText") == "▼"
    values = page.js(f"{cells}.map((cell) => cell.firstChild.textContent)")
    assert values == ["11", "4.5", "–"]
    page.click("#runs th:first-child button")
    assert page.js(ROWS) == ["Speed", "TopK", "Uniform"]


def test_numbers_sort_by_size_not_by_letters(page):
    assert page.js("[9, 100, null, 20].sort((a, b) => compared(a, b, false))") == [9, 20, 100, None]
    assert page.js("[9, null, 100, 20].sort((a, b) => compared(a, b, true))") == [100, 20, 9, None]
    assert page.js("['a10', 'a9'].sort((a, b) => compared(a, b, false))") == ["a9", "a10"]


def test_a_hidden_run_is_gone_everywhere_and_comes_back(page):
    shown = [page.js(what) for what in (ROWS, LINES, DOTS, CARDS)]
    assert all("TopK" in labels for labels in shown)
    page.click("#chooser input[data-group='1']")
    for what in (ROWS, LINES, DOTS, CARDS):
        assert "TopK" not in page.js(what)
    assert page.js(ROWS) == ["Uniform", "Speed"]
    assert "TopK" not in page.js("document.querySelector('#configs').innerText")
    page.click("#chooser input[data-group='1']")
    assert [page.js(what) for what in (ROWS, LINES, DOTS, CARDS)] == shown


def test_a_hidden_seed_leaves_its_group(page):
    page.click("#chooser input[data-run='0']")
    row = page.js("document.querySelector('#runs tbody tr').innerText")
    assert row.split()[:4] == ["Uniform", "2", "40", "5"]
    assert page.js("document.querySelector('#chooser input[data-group=\"0\"]').indeterminate")
    assert page.js(CARDS)[0] == "Uniform"
    page.click("#chooser input[data-group='0']")
    page.click("#chooser .tools-row button:nth-child(2)")
    assert page.js(ROWS) == page.js(CARDS) == page.js(DOTS) == []


def test_seeds_together_or_each_alone(page):
    assert "4.5 ± 0.71" in " ".join(page.js("document.querySelector('#runs').innerText").split())
    page.click("#chooser [data-name=apart]")
    assert page.js(ROWS) == ["Uniform seed 1", "Uniform seed 2", "TopK", "Speed"]
    assert page.js(CARDS) == page.js(ROWS)
    assert sorted(page.js(LINES)) == sorted(page.js(ROWS))


def picked(page, host, menu, value):
    page.js(f"""(() => {{
        const menu = document.querySelector('{host}').parentElement.querySelector('{menu}');
        menu.value = {value!r};
        menu.dispatchEvent(new Event('change'));
    }})()""")


def test_axes_and_scale_change_the_curves(page):
    path = "document.querySelector('#curves .line').getAttribute('d')"
    title = "[...document.querySelectorAll('#curves .title')].map((text) => text.textContent)"
    seen = [page.js(path)]
    assert page.js(title) == ["optimiser steps", "val/loss"]
    for name, words in (("seconds", "training, seconds"), ("images", "images seen")):
        page.click(f".controls [data-name={name}]")
        assert page.js(title)[0] == words
    page.click(".controls [data-name=linear]")
    seen.append(page.js(path))
    picked(page, "#curves", "select", "1")
    seen.append(page.js(path))
    assert page.js(title)[1] == "fid"
    assert len(set(seen)) == 3


def test_the_front_is_the_front(page, made):
    comparison = made[0]
    for cost in ("seconds", "images"):
        picked(page, "#pareto", "select[aria-label=cost]", cost)
        points = weighed(comparison, comparison.columns[0], cost)
        on = front([(paid, fid) for _, paid, fid in points], "lower")
        labels = [comparison.groups[group].label for group, _, _ in points]
        for dim, selector in ((False, ":not(.dim)"), (True, ".dim")):
            expected = sorted(n for n, stands in zip(labels, on, strict=True) if stands != dim)
            dots = f"[...document.querySelectorAll('#pareto .dot{selector}')]"
            assert sorted(page.js(f"{dots}.map((dot) => dot.dataset.label)")) == expected
    assert len(set(on)) == 2


def test_the_pointer_is_told_what_is_near(page):
    left, top, width, height = page.box("#curves svg")
    page.mouse("mouseMoved", left + width - 20, top + height / 2)
    said = page.js("document.querySelector('#curves .told').innerText")
    assert "optimiser steps 40" in said
    assert "Uniform" in said
    assert "0.2" in said
    left, top, width, height = page.box("#pareto .dot")
    page.mouse("mouseMoved", left + width / 2, top + height / 2)
    assert "step " in page.js("document.querySelector('#pareto .told').innerText")


def blue(pixels):
    return pixels[..., 2].astype(int) - pixels[..., 0] > 30


def test_solids_are_drawn_and_turn_together_under_the_mouse(page):
    page.box(".solids")
    page.wait("document.documentElement.dataset.solids === '2'")

    def seen():
        left, top, width, height = (round(v) for v in page.box(".solids"))
        page.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")
        return page.shot()[top : top + height, left : left + width]

    before = seen()
    half = before.shape[1] // 2
    for side in (before[:, :half], before[:, half:]):
        assert 0.02 < blue(side).mean() < 0.6
    left, top, width, height = page.box(".solid")
    middle = left + width / 2, top + height / 2
    page.drag(middle, (middle[0] + 20, middle[1]), (middle[0] + 60, middle[1] + 10))
    after = seen()
    for side in (np.s_[:, :half], np.s_[:, half:]):
        assert (blue(before)[side] != blue(after)[side]).mean() > 0.01
    page.mouse("mouseMoved", middle[0] - 60, middle[1])
    np.testing.assert_array_equal(seen(), after)


def test_images_are_enlarged(page):
    assert not page.js("document.querySelector('dialog').open")
    page.click("figure .images")
    assert page.js("document.querySelector('dialog').open")
    assert page.js("document.querySelector('dialog img').getBoundingClientRect().width") > 300
    page.click("dialog button:last-child")
    assert not page.js("document.querySelector('dialog').open")


def test_on_a_phone_nothing_is_wider_than_the_screen(page):
    page.resize(420, 900)
    page.wait("document.querySelector('#curves svg').clientWidth < 420")
    assert page.js("document.documentElement.scrollWidth") == 420


@pytest.mark.parametrize("bare", [False, True], ids=["one-run", "nothing-logged"])
def test_a_poor_report_opens_too(tmp_path, chromium, bare):
    path = run(tmp_path / "runs/a", losses=(float("nan"), 0.3))
    if bare:
        for file in (path / "tensorboard").iterdir():
            file.unlink()
        (path / "metrics.json").unlink()
    chromium.complaints.clear()
    chromium.open(written(tmp_path, "poor")[1], READY)
    assert chromium.complaints == []
    assert chromium.js(ROWS)[0].startswith("digits_cfg")
    assert chromium.js("document.querySelector('#curves') === null") == bare

import json
import re

import numpy as np
import pytest
from PIL import Image

from ddiff.pages.report.comparison import compare
from ddiff.pages.report.page import VOLUMES, found_samples, write_report
from ddiff.pages.report.plots import draw
from ddiff.pages.report.text import markdown, table
from tests.pages.report.made import ball, evaluate, figure, run, samples

EVIL = '</title><script>alert(1)</script>{{data}}"<!--|'


@pytest.fixture
def place(tmp_path):
    """Two seeds, one other run, one that is unfinished and one without a config."""
    for seed, fid in ((1, 4.0), (2, 5.0)):
        path = run(tmp_path / f"runs/a{seed}", seed=seed)
        evaluate(path, "a", [figure(value=fid, low=fid - 1, high=fid + 1)])
        samples(path, np.linspace(-1, 1, 50 * 64).reshape(50, 1, 8, 8))
    path = run(tmp_path / "runs/b", timesteps__k=0.5, timesteps___target_="x.TopK")
    evaluate(path, "a", [figure(value=3.0, low=2.5, high=3.5), figure("bad", float("nan"))])
    samples(path, np.stack([ball(r) for r in (3.0, 4.0, 5.0, 3.5, 4.5, 5.5)]))
    (path / "metrics.json").unlink()
    (run(tmp_path / "runs/c") / "config.yaml").write_text("{")
    return tmp_path


def compared(place, title=None):
    comparison = compare([str(place / "runs")], title)
    return comparison, found_samples(comparison, 16)


def data_of(path):
    text = path.read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_the_page_fetches_nothing_and_nothing_breaks_out(place):
    path = write_report(*compared(place, EVIL), place / "a.html")
    text = path.read_text()
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert not re.findall(r"\b(?:fetch|XMLHttpRequest|WebSocket)\b", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert text.count("<script>") == 2
    assert "alert(1)</script>" not in text
    assert "<!--" not in text


def test_the_page_holds_what_was_measured(place):
    data = data_of(write_report(*compared(place), place / "a.html"))
    assert [run["label"] for run in data["runs"]] == ["Uniform seed 1", "Uniform seed 2", "TopK"]
    assert [column["title"] for column in data["columns"]] == ["fid", "val/loss"]
    assert [cell["value"] for cell in data["columns"][0]["cells"]] == [4, 5, 3]
    assert data["runs"][2]["state"] == "unfinished: step 40 of 40"
    assert data["runs"][2]["memory"] is None
    dots = [(p["run"], p["value"], p["seconds"]) for p in data["points"] if p["column"] == 0]
    assert dots == [(0, 4, 10), (1, 5, 10), (2, 3, 10)]
    shown = [run["samples"]["shown"] for run in data["runs"]]
    assert shown == ["16 of 50", "16 of 50", f"{VOLUMES} of 6"]
    assert len(data["runs"][2]["samples"]["solids"]) == VOLUMES
    assert any("config.yaml cannot be read" in line for line in data["troubles"])


def test_a_row_of_the_table_is_a_group(place):
    comparison, _ = compared(place)
    header, rows = table(comparison)
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(c["runs"], c["seeds"], c["fid"]) for c in cells] == [
        ("Uniform", "1, 2", "4.5 ± 0.71 (2)"),
        ("TopK", "0", "3 [2.5, 3.5]"),
    ]
    assert [c["training"] for c in cells] == ["10 s", "10 s"]
    assert [c["peak MB"] for c in cells] == ["500", "–"]


def test_markdown_names_protocols_differences_and_what_is_broken(place):
    comparison, _ = compared(place, EVIL)
    text = markdown(comparison, [place / "x_files/curves.png"], "x.html")
    for words in (
        "| Uniform | 1, 2 | 40 |",
        "- **fid**: lower is better; n = 100; reference A",
        "(x_files/curves.png)",
        "| timesteps._target_ | Uniform | TopK |",
        "c: left out: config.yaml cannot be read",
        "b: unfinished: no metrics.json",
    ):
        assert words in text
    assert "<script" not in text
    row = next(line for line in text.splitlines() if line.startswith("| Uniform"))
    assert row.count(" | ") == 8


def test_a_mixture_has_a_table_of_few_columns_and_a_list_of_the_others(tmp_path):
    """Fourteen recipes, each measured under a protocol of its own; one figure that all have."""
    for i in range(14):
        path = run(tmp_path / f"runs/{i:02d}", name=f"recipe_{i:02d}", data__size=8 + i)
        own = figure(value=float(i), protocol_id=f"own_{i}", protocol={"reference": str(i)})
        evaluate(path, "a", [own, figure("shared", 0.5)])
    comparison = compare([str(tmp_path / "runs")])
    header, rows = table(comparison)
    figures = header[3:-4]
    assert len(comparison.columns) == 14 + 1 + 14  # val/loss is measured on other data too
    assert len(figures) == 12
    assert "shared" in figures
    assert {len(row) for row in rows} == {len(header)}
    text = markdown(comparison, [], "x.html")
    assert max(line.count(" | ") for line in text.splitlines() if line.startswith("|")) == 18
    assert "<details><summary>17 more figures</summary>" in text
    assert "- **val/loss (14)**: recipe_13 0.3" in text
    assert "- **data.size**: 8 (recipe_00); 9 (recipe_01)" in text
    data = data_of(write_report(comparison, [None] * 14, tmp_path / "a.html"))
    assert [column["title"] for column in data["columns"] if column["main"]] == figures
    assert len(data["columns"]) == 29


def test_the_strip_of_samples_has_a_row_for_each_group(place):
    comparison, found = compared(place)
    path = draw(comparison, found, place / "files")[-1]
    assert path.name == "samples.png"
    with Image.open(path) as image:
        assert image.width == 16 * (64 + 2) + 2
        assert image.height == (26 + 64 + 4 + 6) + (26 + 160 + 4 + 6)


def test_broken_samples_are_said_and_missing_ones_are_nothing(place):
    (place / "runs/a1/samples/step_000040.npy").write_bytes(b"torn")
    comparison, found = compared(place)
    assert [one is not None for one in found] == [False, True, True]
    assert any("samples left out" in line for line in comparison.troubles)


def test_the_same_seed_twice_is_said(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / "runs" / name, seed=4)
    comparison = compare([str(tmp_path / "runs")])
    assert comparison.labels == ["digits_cfg seed 4 a", "digits_cfg seed 4 b"]
    assert comparison.troubles == ["digits_cfg: seed 4 more than once"]


def test_quality_over_the_length_of_the_average(tmp_path):
    """The mean over two seeds, in the picture, in the page and in a table."""
    for seed in (1, 2):
        path = run(tmp_path / f"runs/{seed}", seed=seed)
        for length in (0.05, 0.1, 0.2):
            value = 10 * length + seed
            evaluate(path, f"a{length}", [figure(value=value)], weights=length)
    comparison = compare([str(tmp_path / "runs")])
    (curves,) = comparison.lengths
    (mean,) = comparison.means(curves)
    np.testing.assert_allclose(mean.steps, [0.05, 0.1, 0.2])
    np.testing.assert_allclose(mean.values, [2, 2.5, 3.5])
    pictures = draw(comparison, [None, None], tmp_path / "files")
    assert "averages.png" in [picture.name for picture in pictures]
    data = data_of(write_report(comparison, [None, None], tmp_path / "a.html"))
    assert [line["values"] for line in data["lengths"][0]["lines"]] == [[1.5, 2, 3], [2.5, 3, 4]]
    text = markdown(comparison, pictures, "a.html")
    assert "## fid over the length of the average" in text
    assert re.search(
        r"\| runs \| 0\.05 \| 0\.1 \| 0\.2 \|\n.*\n\| .* \| 2 \| 2\.5 \| 3\.5 \|", text
    )

"""Results of a study and the words for them, read from folders that are made by hand."""

from pathlib import Path
from typing import Any

import pytest

from ddiff.pages.plotting import new_figure
from ddiff.study import report
from ddiff.study.report import cautions, headline, markdown, table, verdict
from ddiff.study.results import Results, read
from ddiff.system.files import read_json, write_json

Values = dict[str, list[float]]  # variant -> a figure by seed


def made(folder: Path, rungs: list[Values], decide: str = "val/loss", **more: Any) -> Results:
    """A study of variants of 100 steps with rungs at equal distances; `rungs` has each one's
    figures."""
    names = list(rungs[0])
    steps = [100 * (i + 1) // len(rungs) for i in range(len(rungs))]
    mark = {
        "name": "made", "equal": "steps", "budget": 100, "measure": [decide], "decide": decide,
        "better": "lower", "confidence": 0.95, "seeds": list(range(len(rungs[0][names[0]]))),
        "race": {"rungs": [0.5], "share": 0.5} if len(rungs) > 1 else None, "refused": {},
        "variants": [{"name": n, "training": n, "said": [f"x={n}"], "drawing": []} for n in names],
        "trainings": [{"name": n, "loss": "one", "words": [f"x={n}"]} for n in names],
        "steps": {n: steps for n in names}, "costs": {}, "evaluations": {}, **more,
    }  # fmt: skip
    for step, values in zip(steps, rungs, strict=True):
        for name, of in values.items():
            for seed, value in enumerate(of):
                file = folder / name / f"seed_{seed}/figures/{step:06d}.json"
                write_json(file, {"variants": {name: {"figures": {decide: value}}}})
    write_json(folder / "study.json", mark)
    return read(folder)


def said(results: Results, name: str) -> str:
    (row,) = (row for row in results.rows if row.name == name)
    return verdict(results, row)


def test_a_winner_is_compared_where_the_first_one_was_paused(tmp_path: Path) -> None:
    """`b` went on and ended at 1; against `a`, which stopped half way, it is 10% better there."""
    half = {"a": [2.0, 2.2, 2.1], "b": [1.8, 1.98, 1.89], "c": [4.0, 4.4, 4.2]}
    results = made(tmp_path, [half, {"b": [1.0, 1.1, 1.05]}])
    assert results.rows[1].figures["val/loss"] == {0: 1.0, 1: 1.1, 2: 1.05}
    assert said(results, "b") == (
        "**better**: -10% [-10%, -10%], at step 50 of 100, where a was paused"
    )
    assert said(results, "c").endswith("at step 50 of 100, where it was paused")
    assert headline(results).startswith("The race went to b.")


def test_the_front_joins_what_is_drawn_alike_from_one_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        report, "new_figure", lambda *a, **k: drawn.append(new_figure(*a, **k)) or drawn[-1]
    )
    of = {"slow": "net", "fast": "net", "few": "other", "heun": "net"}
    ways = {"slow": "ddim 100", "fast": "ddim 4", "few": "few 2", "heun": "heun 2"}
    variants = [
        {"name": n, "training": t, "said": [f"x={n}"],
         "drawing": [f"solver={ways[n].split()[0]}", f"solver.num_steps={ways[n].split()[1]}"]}
        for n, t in of.items()
    ]  # fmt: skip
    trainings = [{"name": n, "loss": "one", "words": [f"x={n}"]} for n in ("net", "other")]
    own = {"steps": {"net": [100], "other": [100]}, "variants": variants, "trainings": trainings}
    evaluations = {"slow": 100, "fast": 4, "few": 2, "heun": 4}
    values = {"slow": [1.0, 3.0], "fast": [4.0, 6.0], "few": [3.0, 3.0], "heun": [2.0, 2.0]}
    made(tmp_path, [values], decide="fid", **own, evaluations=evaluations)
    for name, training in of.items():
        for seed, value in enumerate(values[name]):
            file = tmp_path / training / f"seed_{seed}/figures/000100.json"
            there = read_json(file) or {"variants": {}}
            there["variants"][name] = {"figures": {"fid": value}}
            write_json(file, there)
    report.front(read(tmp_path), tmp_path / "front.png")
    (panel,) = drawn[0].axes
    points = [bars[0].get_xydata().tolist() for bars in panel.containers]
    assert points == [[[4, 5], [100, 2]], [[2, 3]], [[4, 2]]]
    low, high = panel.containers[0][2][0].get_segments()[1][:, 1]  # of slow, by Student with n = 2
    assert (low, high) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-2)
    assert {text.get_text() for text in panel.texts} == set(of)
    assert (tmp_path / "front.png").stat().st_size > 3000

    made(tmp_path / "alike", [values], decide="fid", evaluations=dict.fromkeys(of, 7))
    report.front(read(tmp_path / "alike"), tmp_path / "alike.png")
    assert not (tmp_path / "alike.png").exists()


def test_one_column_has_one_unit(tmp_path: Path) -> None:
    """A figure that is below 0 for any variant is compared in its own unit for all of them."""
    values = {"a": [1.0, 1.1], "b": [2.0, 2.1], "c": [-1.0, -0.9]}
    results = made(tmp_path, [values], decide="kid")
    differences = [row.differences["kid"] for row in results.rows[1:]]
    assert [d and d.relative for d in differences] == [False, False]
    assert [d and d.mean for d in differences] == pytest.approx([1.0, -2.0])


@pytest.mark.parametrize(("decide", "warned"), [("val/loss", True), ("validity", False)])
def test_a_loss_of_another_quantity_is_said(decide: str, warned: bool, tmp_path: Path) -> None:
    trainings = [{"name": n, "loss": n, "words": []} for n in "ab"]
    results = made(tmp_path, [{"a": [0.5, 0.6], "b": [0.5, 0.7]}], decide, trainings=trainings)
    assert any("not the same quantity" in line for line in cautions(results)) is warned


def test_rows_without_figures(tmp_path: Path) -> None:
    values = {"a": [1.0, 1.1], "b": [], "c": [], "d": [0.9]}
    refused = {"c": "no such net"}
    write_json(tmp_path / "b/seed_0/failure.json", {"why": "out of memory"})
    results = made(tmp_path, [values], refused=refused)
    assert said(results, "b") == "failed: out of memory"
    assert said(results, "c") == "failed: no such net"
    assert said(results, "d").endswith("one seed says nothing")
    assert results.done == 4  # of 8: a twice, the failure of b, d once
    assert "4 of 8 runs are finished" in cautions(results)[0]
    header, rows = table(results)
    assert {len(row) for row in rows} == {len(header)}
    assert "| b | 0 | 0 |" in markdown(results, "command", [], [])


def test_the_readme_says_what_all_variants_share(tmp_path: Path) -> None:
    """Options of the training and of drawing; a variant's own ones stand beside its name."""
    variants = [
        {"name": n, "training": "a", "said": [f"solver={n}"], "drawing": ["y=none", f"solver={n}"]}
        for n in ("a", "b")
    ]
    training = [{"name": "a", "loss": "one", "words": ["experiment=digits_cfg"]}]
    values = {"a": [1.0, 1.1], "b": [1.0, 1.2]}
    results = made(tmp_path, [values], variants=variants, trainings=training, decide="fid")
    text = markdown(results, "command", [], [])
    assert "All variants: `experiment=digits_cfg y=none`." in text
    assert "- b: `solver=b`" in text

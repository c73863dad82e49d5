"""`python -m ddiff.report`, from the outside, over runs that training wrote."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.support.runs import TINY, ddiff_many, forked, job, scalars


def test_a_run_and_one_that_was_killed(tmp_path: Path) -> None:
    options = ["experiment=digits_cfg", *TINY, "budget.max_steps=16", "budget.save_every=4"]
    whole = job("train", *options, "run_dir=runs/1")
    dead = job("train", *options, "objective=eps", "run_dir=runs/dead", kill_at=12)
    assert ddiff_many([whole, dead], tmp_path)[0].status == 0
    done = forked("report", "runs=runs", "out=shown/result", "num=2", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    for name in ("result.md", "result.html", "result_files/curves.png", "result_files/samples.png"):
        assert (tmp_path / "shown" / name).is_file()
    text = (tmp_path / "shown/result.md").read_text()
    for path in re.findall(r"\]\((.*?)\)", text):
        with Image.open(tmp_path / "shown" / path) as image:
            image.verify()
    assert "runs/dead: unfinished: no metrics.json" in done.out
    assert re.search(r"^V +0 +16 ", done.out, re.M)
    assert re.search(r"^Eps +0 +(8|1\d) of 16 ", done.out, re.M)

    page = (tmp_path / "shown/result.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore
    first = next(run for run in data["runs"] if run["path"] == "runs/1")
    assert first["images"] == 16 * 4
    (curve,) = (c for c in data["curves"] if c["title"] == "train/loss")
    line = curve["lines"][data["runs"].index(first)]
    logged = scalars(tmp_path / "runs/1", "train/loss")
    assert line["steps"] == [step + 1 for step in logged] == list(range(1, 17))
    assert line["values"] == pytest.approx(list(logged.values()), rel=1e-5)
    assert line["seconds"] == sorted(line["seconds"])
    assert 0 < line["seconds"][-1] <= first["seconds"] < 60


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["runs=nowhere"], 1, "runs: nowhere: no such folder"),
        (["runs=empty"], 1, "runs: empty: no run in it"),
        (["runs=[empty,3]"], 2, "is not text or a list"),
        (["runs=empty", "num=0"], 2, "num: 0 is less than 1"),
        (["runs=empty", "outt=x"], 2, "did you mean 'out'?"),
        ([], 2, "runs"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: list[str], status: int, words: str) -> None:
    (tmp_path / "empty").mkdir()
    done = forked("report", *options, cwd=tmp_path)
    assert (done.status, len(done.err.splitlines())) == (status, 1)
    assert words in done.err


def test_help_explains_the_options(tmp_path: Path) -> None:
    done = forked("report", "--help", cwd=tmp_path)
    for words in ("runs: ???", "a sweep, a glob", "out: report", "num: 16"):
        assert words in done.out

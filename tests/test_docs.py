"""What README and docs say is so: commands compose, links lead somewhere, the Python runs."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser

from ddiff import export
from ddiff.config.options import Study, typed
from ddiff.config.validation import check_given
from ddiff.data.folders import PICTURES
from ddiff.recipes.choosing import choose_recipe
from ddiff.sampling.from_run import offer_run
from ddiff.study import __main__ as study
from ddiff.study.plan import plan_of
from tests.support.runs import ddiff_many, job

REPOSITORY = Path(__file__).parents[1]
RUN = REPOSITORY / "tests/old_runs/pictures"
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
WITH_RECIPE = ("train", "importance", "benchmark")  # `data=X` alone chooses one
FROM_RUN = ("solver", "guidance", "precision", "data")


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands() -> list:
    """Every command of ddiff in a block of code, continued lines joined, comments left out."""
    found = {}
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"\s+#.*", "", line).removeprefix("$ ")
                if match := re.match(r"(?:python -m ddiff\.|ddiff )(\w+)( .*)?$", line):
                    found.setdefault((match[1], match[2] or ""), page.name)
    return [  # of a study every variant is composed
        pytest.param(*words, id=f"{page}: {words[0]}{words[1]}",
                     marks=[pytest.mark.slow] if "study=" in words[1] else [])
        for words, page in found.items()
    ]  # fmt: skip


def first_of_a_sweep(word: str) -> str:
    """`seed=1,2` -> `seed=1`."""
    override = OverridesParser.create().parse_override(word)
    if word.endswith("))"):
        return f"{word.partition('=')[0]}=1e-3"  # an interval, for a sweeper
    if not override.is_sweep_override():
        return word
    return f"{word.partition('=')[0]}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize(("verb", "options"), commands())
def test_a_command_composes(
    verb: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in shlex.split(options) if word not in ("-m", "--help")]
    if verb == "kernels" or any(word.startswith(("--", "net.chanels")) for word in words):
        pytest.skip("argparse's, a wrong one on purpose, or with configs of the reader's own")
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "scans"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"one{PICTURES[0]}").write_bytes(b"")
    words = [re.sub(r"<(\w+)>", r"\1", word) for word in words]
    if verb in WITH_RECIPE:
        monkeypatch.setattr(sys, "argv", [verb, *words])
        choose_recipe(words)
        words = sys.argv[1:]
    words = [f"run={RUN}" if word.startswith("run=") else word for word in words]
    offer_run(*FROM_RUN)(words)
    if verb == "export":
        export.prepare(words)
    if verb == "study":
        monkeypatch.setattr(sys, "argv", [verb, *words])
        study.prepare(words)
        words = sys.argv[1:]
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        words = [first_of_a_sweep(word) for word in words if not word.startswith("hydra.")]
        cfg = compose(verb, words)
        check_given(cfg, verb)
        if verb == "study":  # the trainings of its variants too
            plan_of(typed(Study, cfg), "study", study.MORE)


def test_commands_were_found() -> None:
    assert len(commands()) > 45


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link.partition("#")[0] for link in links if "://" not in link and link[0] != "#"]
    assert [link for link in local if not (page.parent / link).exists()] == []


SMALL = {  # what makes a command of the tutorial take a second
    "train": ("debug=smoke", "evaluation.num_samples=20", "budget.max_steps=4"),
    "sample": ("solver.num_steps=2",),
    "evaluate": ("num_samples=20", "batch_size=20", "solver.num_steps=2"),
    "export": ("solver.num_steps=2",),
}


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of ddiff in it, in its order, small; then its Python."""
    text = (REPOSITORY / "docs/tutorial.md").read_text(encoding="utf-8")
    lines = "".join(blocks(text)).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("python -m ddiff.")]
    assert [verb for verb, *_ in commands] == [
        "ddiff.train", "ddiff.train", "ddiff.train", "ddiff.sample", "ddiff.sample", "ddiff.train",
        "ddiff.evaluate", "ddiff.train", "ddiff.report", "ddiff.export", "ddiff.sample",
    ]  # fmt: skip
    for module, *words in commands:
        verb = module.removeprefix("ddiff.")
        small = [] if words in (["--help"], ["ckpt_path=runs/first"]) else SMALL.get(verb, ())
        (done,) = ddiff_many([job(verb, *words, *small)], tmp_path)
        finished = words == ["ckpt_path=runs/first"]  # nothing is left of the training
        assert done.status == (2 if finished else 0), (words, done.err)
    for name in ("digits.png", "fast.npy", "report.html", "digits.pt2", "from_file.npy"):
        assert (tmp_path / name).is_file(), name
    assert len(list((tmp_path / "runs/objectives").glob("*/metrics.json"))) == 4
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(text, "python")
    names: dict = {}
    exec(code, names)
    assert names["x"].shape == (20, 1, 8, 8)


def test_the_readme_is_short() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 900


def test_the_readme_s_python_runs() -> None:
    (code,) = blocks((REPOSITORY / "README.md").read_text(encoding="utf-8"), "python")
    batches = [torch.rand(4, 1, 8, 8) * 2 - 1 for _ in range(2)]
    names: dict = {"batches": batches}
    exec(code.replace("ddim(schedule, 50)", "ddim(schedule, 2)"), names)
    assert names["last"].x.shape == (16, 1, 8, 8)
    assert np.isfinite(names["last"].x.detach().numpy()).all()

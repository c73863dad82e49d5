"""A file that exists is replaced where `overwrite=true` says so, and refused before the work."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import check_outputs
from tests.artifacts.worlds import make_run
from tests.support.runs import Done, ddiff_many, job

pytestmark = pytest.mark.slow  # a dozen commands
QUICK = ("num_samples=4", "batch_size=4", "solver.num_steps=2")
FEW = ("bins=4", "min_batches=2", "max_batches=2", "batch_size=2", "score=proxy",
       "accelerator=cpu")  # fmt: skip
ONE = ("repeats=1", "batch_sizes=[2]", "num_steps=2", "backends=[eager]", "precisions=[fp32]")
VERBS = {  # verb, options, the files that it leaves
    "sample": ("sample", ["run=run", *QUICK], [
        f"run/samples/ddim2_w1.5_4.{ending}" for ending in ("npy", "json", "png")]),
    "sample out": ("sample", ["run=solid", *QUICK, "out=solids"], [
        "solids.npy", "solids.json", "solids.png", "solids_0000.ply", "solids_0003.ply"]),
    "export": ("export", ["run=run"], ["run/artifacts/model.pt2"]),
    "importance": ("importance", ["run=run", *FEW], ["importance.json", "importance.png"]),
    "evaluate": (
        "evaluate",
        ["samples=given.npy", "reference=solids.npy", "metrics=[pairs]", "out=pairs.json"],
        ["pairs.json"],
    ),
    "view": ("view", ["path=given.npy"], ["given_view.png", "given_view.html"]),
    "benchmark": ("benchmark", ["run=run", *ONE, "out=bench"], [
        "bench/benchmark.json", "bench/benchmark.png"]),
    "report": ("report", ["runs=run"], ["report.md", "report.html"]),
}  # fmt: skip
DRAWN = ["run=run", *QUICK, "reference=digits.npy", "seed=1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Done]]]:
    """Every verb in turn: on a fresh place, again, and with overwrite=true."""
    cwd = tmp_path_factory.mktemp("world")
    make_run(cwd / "run", "2D")
    make_run(cwd / "solid", "3D")
    rng = np.random.default_rng(0)
    np.save(cwd / "given.npy", rng.uniform(-1, 1, (4, 1, 16, 16, 16)).astype(np.float32))
    np.save(cwd / "digits.npy", rng.uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32))
    jobs = [
        job(verb, *options, *more)
        for more in ((), (), ("overwrite=true",))
        for verb, options, _ in VERBS.values()
    ]
    jobs += [
        job("evaluate", *DRAWN, "metrics=[pairs]"),
        job("evaluate", *DRAWN, "metrics=[nearest_pairs]"),
        job("evaluate", *DRAWN, "metrics=[pairs]", "clamp=0.5"),
        job("evaluate", *DRAWN, "metrics=[pairs]", "clamp=0.5", "overwrite=true", "out=new.json"),
        job("sample", "run=solid", *QUICK, "out=turned"),
        job("sample", "run=solid", *QUICK, "out=turned", "mesh=obj", "overwrite=true"),
        job("view", "path=given.npy", "overwrite=perhaps"),
    ]
    done = ddiff_many(jobs, cwd)
    n = len(VERBS)
    answers = {name: [done[i], done[n + i], done[2 * n + i]] for i, name in enumerate(VERBS)}
    return cwd, answers | {"others": done[3 * n :]}


@pytest.mark.parametrize("name", VERBS)
def test_a_second_time_is_refused_in_a_line_that_says_how_to_go_on(
    name: str, world: tuple[Path, dict[str, list[Done]]]
) -> None:
    cwd, answers = world
    first, again, replaced = answers[name]
    _, _, files = VERBS[name]
    assert (first.status, first.err) == (0, "")
    assert [file for file in files if not (cwd / file).is_file()] == []
    assert (again.status, len(again.err.splitlines())) == (2, 1), again.err
    for words in ("ddiff: ", " exists already", "give another out=, or overwrite=true"):
        assert words in again.err
    assert any(file in again.err for file in files)
    assert (replaced.status, replaced.err) == (0, "")


def test_the_very_samples_are_evaluated_again_and_their_figures_kept(
    world: tuple[Path, dict[str, list[Done]]],
) -> None:
    cwd, answers = world
    first, again, others, replaced = answers["others"][:4]
    assert [d.status for d in (first, again, others, replaced)] == [0, 0, 2, 0], others.err
    assert "there already" not in first.out
    assert "there already" in again.out
    assert "other samples have this name: rename them, or overwrite=true" in others.err
    found = json.loads((cwd / "run/evaluations/ddim2_w1.5_seed1_4.json").read_text())
    names = [f["name"] for f in found["figures"]]
    assert {"psnr", "ssim", "nearest_psnr"} <= set(names)
    assert len(names) == len(set(names))
    made = json.loads((cwd / "run/samples/ddim2_w1.5_seed1_4.json").read_text())
    assert made["options"]["clamp"] == 0.5


def test_no_mesh_of_older_samples_stays(world: tuple[Path, dict[str, list[Done]]]) -> None:
    cwd, answers = world
    assert [done.status for done in answers["others"][4:6]] == [0, 0]
    assert sorted(p.name for p in cwd.glob("turned_*")) == [f"turned_{i:04d}.obj" for i in range(4)]


def test_overwrite_is_true_or_false(world: tuple[Path, dict[str, list[Done]]]) -> None:
    done = world[1]["others"][6]
    assert (done.status, done.err) == (2, "ddiff: overwrite: 'perhaps' is not true or false\n")


def test_what_is_checked_before_the_work(tmp_path: Path) -> None:
    there, new = tmp_path / "there.npy", tmp_path / "a/b/new.npy"
    there.write_text("before")
    check_outputs([new], False)
    check_outputs([there, new], True)
    assert [p.name for p in tmp_path.iterdir()] == ["there.npy"]  # nothing is made
    with pytest.raises(ConfigError, match=r"there\.npy exists already; give another out="):
        check_outputs([new, there], False)
    with pytest.raises(ConfigError, match=r"and 1 more of its files"):
        check_outputs([there, there], False)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.npy is a folder"):
        check_outputs([tmp_path / "folder.npy"], True)
    for place, words in (
        (there / "x.npy", "Not a directory"),
        (tmp_path / ("n" * 300), "File name too long"),
        (Path("/proc/x.npy"), "cannot write /proc/x.npy"),
    ):
        with pytest.raises(DdiffError, match=words):
            check_outputs([place], False)


def test_a_dangling_link_is_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "link.npy").symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(ConfigError, match="exists already"):
        check_outputs([tmp_path / "link.npy"], False)

"""As a user meets artifacts: python -m ddiff.export, and run=model.pt2."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddiff.system.checkpoints import ARTIFACTS
from tests.artifacts.worlds import make_run
from tests.support.runs import Done, ddiff_many, job

TEN = ("num_samples=10", "solver=ddim", "solver.num_steps=4")
VERBS = {
    "export": ("export", ["run=run", "out=model.pt2"]),
    "of the run": ("sample", ["run=run", *TEN, "out=of_run"]),
    "of the artifact": ("sample", ["run=model.pt2", *TEN]),
    "needs nothing else": ("sample", ["run=model.pt2", "num_samples=8", "out=eight"]),
    "fixed": ("export", ["run=run", "dynamic_batch=false", "batch_size=4"]),
    "figures": (
        "evaluate",
        ["run=model.pt2", *TEN, "reference=of_run.npy", "metrics=[pairs]", "out=figures.json"],
    ),
}
FIXED = "run/artifacts/model_batch4.pt2"
MISTAKES = {  # verb, options, exit status, words of the one line
    "another batch": (
        "sample",
        [f"run={FIXED}", "num_samples=8"],
        2,
        ["[4, 1, 8, 8]", "[64, ", "2 with guidance"],
    ),
    "backend": ("sample", ["run=model.pt2", "backend=compiled"], 2, ["leave backend out"]),
    "device": ("sample", ["run=model.pt2", "accelerator=gpu"], 2, ["no gpu here"]),
    "no file": ("sample", ["run=none.pt2"], 1, ["none.pt2"]),
    "again": ("export", ["run=model.pt2", "format=onnx"], 1, ["model.pt2 is an artifact"]),
    "measured": ("importance", ["run=model.pt2"], 1, ["model.pt2 is an artifact"]),
    "resumed": ("train", ["ckpt_path=model.pt2"], 1, ["model.pt2 is an artifact"]),
    "ending": ("export", ["run=run", "out=model.onnx"], 2, ["model.onnx", "end in .pt2"]),
    "int8": ("export", ["run=run", "precision=int8"], 2, ["no int8", "format=onnx"]),
    "there already": ("export", ["run=run", "out=model.pt2"], 2, ["model.pt2", "overwrite=true"]),
    "a classifier": ("export", ["run=classifier"], 1, ["classifier is a classifier"]),
    "a classifier's samples": ("sample", ["run=classifier"], 1, ["classifier is a classifier"]),
    "an unwritable place": ("export", ["run=run", "out=/proc/x.pt2"], 1, ["/proc/x.pt2"]),
    "tf32": ("export", ["run=run", "precision=tf32"], 2, ["tf32"]),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    cwd = tmp_path_factory.mktemp("world")
    make_run(cwd / "run", "2D")
    make_run(cwd / "classifier", "classifier")
    told = {**VERBS, **MISTAKES}
    jobs = [job(verb, *options) for verb, options, *_ in told.values()]
    return cwd, dict(zip(told, ddiff_many(jobs, cwd), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_it_works_in_silence(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    done = world[1][name]
    assert (done.status, done.err) == (0, "")


@pytest.mark.slow
def test_what_export_says(world: tuple[Path, dict[str, Done]]) -> None:
    for words in ("model.pt2", "sha256", "PSNR", "python -m ddiff.sample run=model.pt2"):
        assert words in world[1]["export"].out


@pytest.mark.slow
def test_an_artifact_samples_as_its_run(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, _ = world
    ours = np.load(cwd / "model_pt2/samples/ddim4_w1.5_10.npy")  # guided as the run is
    assert np.abs(ours - np.load(cwd / "of_run.npy")).max() < 1e-4
    made = json.loads((cwd / "model_pt2/samples/ddim4_w1.5_10.json").read_text())
    assert made["step"] == 7
    assert np.load(cwd / "eight.npy").shape == (8, 1, 8, 8)
    figures = json.loads((cwd / "figures.json").read_text())["figures"]
    assert {f["name"]: f["value"] for f in figures}["psnr"] > 80  # dB, sample by sample


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_says_it(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    _, _, status, words = MISTAKES[name]
    done = world[1][name]
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert done.status == status, lines[0]


@pytest.mark.slow
def test_nothing_is_littered(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, _ = world
    artifacts = {p.name for p in cwd.rglob("*") if p.is_file() and p.suffix in ARTIFACTS}
    assert artifacts == {"model.pt2", "model_batch4.pt2"}
    assert not [p for p in cwd.rglob("*") if p.name.startswith(".")]

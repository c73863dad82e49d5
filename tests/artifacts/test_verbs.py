"""As a user meets artifacts: python -m ddiff.export, and from=model.ts."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddiff.checkpoints import ARTIFACTS
from tests.artifacts.worlds import make_run
from tests.support.runs import Done, ddiff_many, job

TEN = ("num_samples=10", "solver=ddim", "solver.num_steps=4")
VERBS = {
    "export": ("export", ["from=run", "out=model.ts"]),
    "of the run": ("sample", ["from=run", *TEN, "out=of_run"]),
    "of the artifact": ("sample", ["from=model.ts", *TEN]),
    "needs nothing else": ("sample", ["from=model.ts", "num_samples=8", "out=eight"]),
    "fixed": ("export", ["from=run", "dynamic_batch=false", "batch_size=4"]),
    "figures": (
        "evaluate",
        ["from=model.ts", *TEN, "reference=of_run.npy", "metrics=[pairs]", "out=figures.json"],
    ),
}
FIXED = "run/artifacts/model_batch4.ts"
MISTAKES = {  # verb, options, exit status, words of the one line
    "another batch": (
        "sample",
        [f"from={FIXED}", "num_samples=8"],
        2,
        ["[4, 1, 8, 8]", "[64, ", "2 with guidance"],
    ),
    "backend": ("sample", ["from=model.ts", "backend=compiled"], 2, ["leave backend out"]),
    "device": ("sample", ["from=model.ts", "accelerator=gpu"], 2, ["no gpu here"]),
    "no file": ("sample", ["from=none.ts"], 1, ["none.ts"]),
    "again": ("export", ["from=model.ts", "format=onnx"], 1, ["model.ts is an artifact"]),
    "resumed": ("train", ["ckpt_path=model.ts"], 1, ["model.ts is an artifact"]),
    "ending": ("export", ["from=run", "out=model.onnx"], 2, ["model.onnx", "end in .ts"]),
    "int8": ("export", ["from=run", "precision=int8"], 2, ["no int8", "format=onnx"]),
    "tf32": ("export", ["from=run", "precision=tf32"], 2, ["tf32"]),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    cwd = tmp_path_factory.mktemp("world")
    make_run(cwd / "run", "2D")
    told = {**VERBS, **MISTAKES}
    jobs = [job(verb, *options) for verb, options, *_ in told.values()]
    return cwd, dict(zip(told, ddiff_many(jobs, cwd), strict=True))


@pytest.mark.parametrize("name", VERBS)
def test_it_works_in_silence(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    done = world[1][name]
    assert (done.status, done.err) == (0, "")


def test_what_export_says(world: tuple[Path, dict[str, Done]]) -> None:
    for words in ("model.ts", "sha256", "PSNR", "python -m ddiff.sample from=model.ts"):
        assert words in world[1]["export"].out


def test_an_artifact_samples_as_its_run(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, _ = world
    ours = np.load(cwd / "model_ts/samples/ddim4_w1.5_10.npy")  # guided as the run is
    assert np.abs(ours - np.load(cwd / "of_run.npy")).max() < 1e-4
    made = json.loads((cwd / "model_ts/samples/ddim4_w1.5_10.json").read_text())
    assert made["step"] == 7
    assert np.load(cwd / "eight.npy").shape == (8, 1, 8, 8)
    figures = json.loads((cwd / "figures.json").read_text())["figures"]
    assert {f["name"]: f["value"] for f in figures}["psnr"] > 80  # dB, sample by sample


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_says_it(name: str, world: tuple[Path, dict[str, Done]]) -> None:
    _, _, status, words = MISTAKES[name]
    done = world[1][name]
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert done.status == status, lines[0]


def test_nothing_is_littered(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, _ = world
    artifacts = {p.name for p in cwd.rglob("*") if p.is_file() and p.suffix in ARTIFACTS}
    assert artifacts == {"model.ts", "model_batch4.ts"}
    assert not [p for p in cwd.rglob("*") if p.name.startswith(".")]

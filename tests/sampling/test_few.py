"""Few steps by the verbs: learned, drawn, guided, exported, started from a finished run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.artifacts.worlds import make_run
from tests.support.runs import SHORT, TINY, Done, checkpoint, ddiff_many, job

FEW = ("experiment=digits_cfg", "module.shortcuts=0.25", "solver=few", "budget.max_steps=4")
DRAW = ("num_samples=4", "picture=false", "solver=few", "solver.num_steps=2")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    cwd = tmp_path_factory.mktemp("few")
    make_run(cwd / "run", "few")
    make_run(cwd / "plain", "2D")
    jobs = {
        "train": job("train", *FEW, *TINY, "module.shortcuts_guidance=0.5", "run_dir=new"),
        "init": job("train", "experiment=digits_cfg", "module.shortcuts=0.25", *SHORT,
                    "init=plain", "budget.max_steps=1", "run_dir=started"),
        "alone": job("sample", "run=run", *DRAW, "guidance=none", "out=alone"),
        "guided": job("sample", "run=run", *DRAW, "guidance=cfg", "out=guided"),
        "native": job("sample", "run=run", *DRAW, "guidance=cfg", "backend=native", "out=native"),
        "ddim": job("sample", "run=run", *DRAW, "guidance=none", "solver=ddim", "out=ddim"),
        "export": job("export", "run=run", "format=pt2", "out=run.pt2"),
        "exported": job("sample", "run=run.pt2", *DRAW, "guidance=cfg", "out=exported"),
        "plain": job("sample", "run=plain", *DRAW, "out=none"),
        "weaker": job("sample", "run=run", *DRAW, "guidance=auto", "guidance.run=plain"),
        "diffusers": job("export", "run=run", "format=diffusers"),
    }  # fmt: skip
    return cwd, dict(zip(jobs, ddiff_many(list(jobs.values()), cwd), strict=True))


def drawn(cwd: Path, name: str) -> tuple[np.ndarray, int]:
    return np.load(cwd / f"{name}.npy"), json.loads((cwd / f"{name}.json").read_text())[
        "evaluations"
    ]


@pytest.mark.slow
def test_they_train_and_their_pictures_are_of_few_steps(world) -> None:
    cwd, done = world
    assert done["train"].status == 0, done["train"].err
    found = checkpoint(cwd / "new")
    learned = found["state_dict"]["net.condition.embedding.length.2.weight"]
    assert learned.abs().max() > 0
    config = found["ddiff"]["config"]
    assert config["net"]["embedding"]["shortcuts"] is True
    assert config["module"]["shortcuts_guidance"] == 0.5


@pytest.mark.slow
def test_a_step_is_an_evaluation_and_two_with_guidance(world) -> None:
    cwd, done = world
    for name, evaluations in (("alone", 2), ("guided", 4), ("native", 4), ("exported", 4)):
        assert done[name].status == 0, done[name].err
        assert drawn(cwd, name)[1] == evaluations
    for name in ("native", "exported"):
        np.testing.assert_allclose(drawn(cwd, name)[0], drawn(cwd, "guided")[0], atol=1e-4)


@pytest.mark.slow
def test_the_net_is_told_how_far_a_step_goes(world) -> None:
    """Else the samples were those of ddim."""
    cwd, _ = world
    assert np.abs(drawn(cwd, "alone")[0] - drawn(cwd, "ddim")[0]).max() > 1e-3


@pytest.mark.slow
def test_a_finished_run_is_a_start_that_predicts_what_it_did(world) -> None:
    cwd, done = world
    assert done["init"].status == 0, done["init"].err
    assert "made anew: condition.embedding.length" in done["init"].out
    last = checkpoint(cwd / "started")["state_dict"]
    before = checkpoint(cwd / "plain")["state_dict"]
    moved = [(last[f"net.{n[4:]}"] - v).abs().max() for n, v in before.items() if n[:4] == "ema."]
    assert torch.stack(moved).max() < 0.01  # one step of the optimiser


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [("plain", "trained with module.shortcuts=0.25"), ("weaker", "has learned no shortcuts"),
     ("diffusers", "how far a step goes")],
)  # fmt: skip
def test_what_has_not_learned_them_is_refused(world, name, words) -> None:
    _, done = world
    assert done[name].status != 0
    assert words in done[name].err

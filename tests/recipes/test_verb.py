"""`python -m ddiff.recipe`: it writes an experiment that trains by the printed command."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from ddiff.recipe import name_for, number_of_bytes
from ddiff.recipes.budget import OF_STEPS, steps_in
from tests.support.runs import checkpoint, ddiff_many, job

pytestmark = pytest.mark.slow  # a dozen commands
SMOKE = ("trainer=smoke", "solver.num_steps=2", "sampling.num_samples=2")
SOLIDS = ("data=voxels", "data.root=solids", "data.size=[8,8,4]", "accelerator=cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    cwd = tmp_path_factory.mktemp("recipes")
    random = np.random.default_rng(0)
    (cwd / "solids").mkdir()
    for i in range(12):
        np.save(cwd / f"solids/{i}.npy", random.integers(0, 2, (8, 8, 4), np.uint8))
    np.save(cwd / "solids/copy.npy", np.load(cwd / "solids/0.npy"))
    jobs = {
        "made": job("recipe", *SOLIDS, "budget=1h", "memory=1GB"),
        "again": job("recipe", *SOLIDS, "budget=2s"),
        "time": job("recipe", *SOLIDS, "budget=2 fortnights"),
        "memory": job("recipe", *SOLIDS, "memory=4"),
        "little": job("recipe", *SOLIDS, "budget=1h", "memory=1MB", "name=little"),
        "taken": job("recipe", *SOLIDS, "name=digits_cfg"),
        "no data": job("recipe", "budget=2s"),
        "wrong": job("recipe", *SOLIDS, "budgt=2s"),
    }
    done = dict(zip(jobs, ddiff_many(list(jobs.values()), cwd), strict=True))
    return SimpleNamespace(cwd=cwd, done=done)


def test_it_says_what_it_saw_and_writes_it(world: SimpleNamespace) -> None:
    done = world.done["made"]
    assert (done.status, done.err) == (0, "")
    assert "12 cases: expect copies" in done.out or "11 cases: expect copies" in done.out
    assert "metrics=[memorisation]" in done.out
    text = (world.cwd / "recipes/experiment/voxels_solids.yaml").read_text()
    cfg = OmegaConf.create(text)
    assert cfg.memory_budget_gb == 1
    assert cfg.net.channels is not None
    assert {"override /data": "voxels"} in cfg.defaults
    assert {"override /module": "voxel_ddpm"} in cfg.defaults
    assert text.splitlines()[2].startswith("# samples: ")


def test_the_printed_command_trains_and_resumes(world: SimpleNamespace) -> None:
    (line,) = [line for line in world.done["made"].out.splitlines() if line.startswith("train by")]
    words = shlex.split(line.removeprefix("train by"))
    assert words[:3] == ["python", "-m", "ddiff.train"]
    train = job("train", *words[3:], *SMOKE, "run_dir=run")
    more = job("train", "--config-dir", "recipes", "ckpt_path=run", "budget.max_steps=6")
    for done in ddiff_many([train, more], world.cwd):
        assert (done.status, done.err) == (0, "")
    assert checkpoint(world.cwd / "run")["global_step"] == 6
    assert np.load(world.cwd / "run/samples/step_000006.npy").shape == (2, 1, 8, 8, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("again", "voxels_solids.yaml exists already; overwrite=true replaces it"),
        ("time", "budget: '2 fortnights' is not written like 60s, 5min or 2h"),
        ("memory", "memory: 4 is not text"),
        ("little", "memory: no net for these data fits into 0.001 GB"),
        ("taken", "name: ddiff has an experiment digits_cfg of its own"),
        ("no data", "You must specify 'data'"),
        ("wrong", "budgt: no such option; did you mean 'budget'?"),
    ],
)
def test_what_is_wrong_is_a_line(name: str, message: str, world: SimpleNamespace) -> None:
    done = world.done[name]
    assert message in done.err, done.err
    assert (len(done.err.splitlines()), done.err[:7], done.status) == (1, "ddiff: ", 2)
    assert not list(Path(world.cwd, "recipes/experiment").glob("little*"))


def test_numbers_of_the_command_line() -> None:
    assert (number_of_bytes(None), number_of_bytes("4GB"), number_of_bytes("1.5MB")) == (
        None,
        4e9,
        1.5e6,
    )
    assert steps_in(60, 0.05) == OF_STEPS * 1200
    assert steps_in(0.001, 0.05) == 1
    assert name_for("images", {"root": "/data/my photos/", "size": 8}) == "images_my_photos"
    assert name_for("digits", {}) == "digits"


def test_a_training_writes_its_recipe_and_takes_it(world: SimpleNamespace) -> None:
    """Once; then the file that lies there. What is said wins over it."""
    said = (*SOLIDS[:-1], "trainer.accelerator=cpu", "threads=1", "name=mine", "recipe=1h")
    smoke = ("trainer=smoke", "trainer.accelerator=cpu", *SMOKE[1:], "optimizer.lr=0.002")
    (first,) = ddiff_many([job("train", *said, *smoke, "run_dir=first")], world.cwd)
    assert (first.status, first.err) == (0, "")
    file = world.cwd / "recipes/experiment/mine.yaml"
    written = file.read_text()
    assert "recipe      recipes/experiment/mine.yaml" in first.out
    wrong = [
        job("train", *said, "experiment=volumes"),
        job("train", *said, "ckpt_path=first"),
        job("train", "-m", *said, "seed=1,2"),
        job("train", "recipe=1h"),
        job("train", *SOLIDS[:-1], "recipe=fortnight", "name=never"),
    ]
    again, *refused = ddiff_many([job("train", *said, *smoke, "run_dir=again"), *wrong], world.cwd)
    assert (again.status, again.err) == (0, "")
    assert "recipe      recipes/experiment/mine.yaml, written before; remove it" in again.out
    assert file.read_text() == written
    recipe = OmegaConf.create(written)
    for name in ("first", "again"):
        cfg = OmegaConf.load(world.cwd / name / "config.yaml")
        assert (cfg.name, cfg.optimizer.lr) == ("mine", 0.002)
        assert cfg.net.channels == recipe.net.channels
        assert cfg.module.ema_decay == recipe.module.ema_decay
        assert "Muon" in cfg.optimizer["_target_"]
        overrides = checkpoint(world.cwd / name)["ddiff"]["overrides"]
        assert "experiment=mine" in overrides
        assert not [word for word in overrides if word.startswith("recipe=")]
    lines = (
        "recipe: does not go with experiment=",
        "recipe: does not go with ckpt_path=",
        "recipe: is for one data=X",
        "recipe: is for one data=X",
        "budget: 'fortnight' is not written like 60s, 5min or 2h",
    )
    for done, line in zip(refused, lines, strict=True):
        assert done.status == 2
        assert done.err.startswith(f"ddiff: {line}"), done.err
        assert len(done.err.splitlines()) == 1
    assert not (world.cwd / "recipes/experiment/never.yaml").exists()

"""`data=X` without `experiment=` trains parts that suit X, and the run keeps what was chosen."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ddiff.build import build_net
from ddiff.config.resolvers import KNOWN, fit
from ddiff.config.targets import build
from ddiff.config.trees import resolved
from ddiff.config.validation import validate
from ddiff.recipes.choosing import FOLDERS, choose_recipe
from ddiff.system.errors import ConfigError
from tests.support.runs import Done, checkpoint, chosen, ddiff_many, job

RNG = np.random.default_rng(0)


def photographs(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (40, 50, 3), np.uint8)).save(root / name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with and without class folders, volumes of 32^3 with and without."""
    root = tmp_path_factory.mktemp("recipe")
    photographs(root / "photos", *(f"{i}.jpg" for i in range(6)))
    photographs(root / "pets", *(f"{kind}/{i}.jpg" for i in range(3) for kind in ("cat", "dog")))
    for name in ("scans", "parts/nut", "parts/bolt"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            np.save(root / name / f"{i}.npy", RNG.integers(0, 2, (32, 32, 32), np.uint8))
    return root


def recipe_of(*argv: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """The config of `python -m ddiff.train argv`."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["ddiff.train", *argv])
    choose_recipe(sys.argv[1:])
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = resolved(compose("train", sys.argv[1:]))
    validate(cfg)
    return cfg


SMALL, MIDDLE, LARGE, SOLID = [32, 64], [32, 64, 96], [64, 96, 128], [32, 48, 64]
PHOTOS, PETS = ("data=images", "data.root=photos"), ("data=images", "data.root=pets")
SCANS, PARTS = ("data=voxels", "data.root=scans"), ("data=voxels", "data.root=parts")
# options: (name, module, objective, channels, patch size, SNR factor)
CHOSEN: dict[tuple[str, ...], tuple[str, str, str, list[int], int, float]] = {
    ("data=digits",): ("digits", "ConditionalDDPM", "V", SMALL, 1, 1.0),
    ("data=digits", "data.size=16"): ("digits", "ConditionalDDPM", "V", SMALL, 1, 1.0),
    ("data=mnist",): ("mnist", "ConditionalDDPM", "V", MIDDLE, 1, 1.0),
    ("data=fashion_mnist",): ("fashion_mnist", "ConditionalDDPM", "V", MIDDLE, 1, 1.0),
    ("data=cifar10",): ("cifar10", "ConditionalDDPM", "V", MIDDLE, 1, 1.0),
    (*PHOTOS, "data.size=32"): ("images", "DDPM", "V", MIDDLE, 1, 1.0),
    (*PHOTOS, "data.size=64"): ("images", "DDPM", "V", MIDDLE, 1, 1 / 4),
    (*PHOTOS, "data.size=128"): ("images", "DDPM", "V", LARGE, 2, 1 / 16),
    (*PHOTOS, "data.size=256"): ("images", "DDPM", "V", LARGE, 4, 1 / 64),
    (*PETS, "data.size=32"): ("images", "ConditionalDDPM", "V", MIDDLE, 1, 1.0),
    (*PETS, "data.size=32", "data.labels=false"): ("images", "DDPM", "V", MIDDLE, 1, 1.0),
    ("data=spheres",): ("spheres", "VoxelDDPM", "X0", SOLID, 4, 1 / 256),
    ("data=spheres", "data.size=16"): ("spheres", "VoxelDDPM", "X0", SOLID, 1, 1 / 4),
    ("data=shapes",): ("shapes", "ConditionalDDPM", "X0", SOLID, 4, 1 / 256),
    (*SCANS, "data.size=32"): ("voxels", "VoxelDDPM", "X0", SOLID, 2, 1 / 32),
    (*SCANS, "data.size=48"): ("voxels", "VoxelDDPM", "X0", SOLID, 2, 1024 / 48**3),
    (*SCANS, "data.size=128"): ("voxels", "VoxelDDPM", "X0", SOLID, 4, 1 / 2048),
    (*PARTS, "data.size=32"): ("voxels", "ConditionalDDPM", "X0", SOLID, 2, 1 / 32),
}


@pytest.mark.parametrize("argv", CHOSEN, ids=" ".join)
def test_the_parts_suit_the_data(
    argv: tuple[str, ...], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = recipe_of(*argv, cwd=folders, monkeypatch=monkeypatch)
    parts = (cfg.name, *(cfg[g]["_target_"].rpartition(".")[2] for g in ("module", "objective")))
    net = cfg.net
    assert (*parts, net.channels, net.patch_size, cfg.schedule.snr_factor) == CHOSEN[argv]
    assert net["_target_"] == "ddiff.nets.UNet"
    assert net.input_skip == (net.patch_size > 1)
    assert cfg.guidance.scale == 0.0


def test_nothing_said_is_still_the_spheres(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in ((), ("data.size=32",), ("trainer=smoke",)):
        cfg = recipe_of(*argv, cwd=folders, monkeypatch=monkeypatch)
        assert (cfg.name, cfg.net.patch_size) == ("voxel_adaptive", 4)
        assert cfg.timesteps["_target_"].endswith("StratifiedImportance")


def test_the_demo_names_its_recipe() -> None:
    lines = (Path(__file__).parents[2] / "Makefile").read_text().splitlines()
    demo = next(i for i, line in enumerate(lines) if line.startswith("demo:"))
    assert lines[demo + 1] == "\t$(BIN)/python -m ddiff.train experiment=voxel_adaptive"


def test_what_is_said_wins(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ("net=unet_patch2", "objective=eps", "schedule=linear", "module=ddpm", "name=mine")
    cfg = recipe_of("data=digits", *said, cwd=folders, monkeypatch=monkeypatch)
    assert cfg.net.channels == [16, 32, 64, 64]
    assert cfg.objective["_target_"].endswith("Eps")
    assert cfg.schedule["_target_"].endswith("linear")
    assert (cfg.module["_target_"], cfg.name) == ("ddiff.training.modules.DDPM", "mine")
    cfg = recipe_of("data=digits", "experiment=digits_cfg", cwd=folders, monkeypatch=monkeypatch)
    assert cfg.name == "digits_cfg"
    assert sys.argv[1:] == ["data=digits", "experiment=digits_cfg"]


@pytest.mark.parametrize(
    "argv",
    [
        ("run=runs/x", "data=digits"),
        ("ckpt_path=runs/x", "data=digits"),
        ("data=mine",),
        ("data=",),
        ("data=[",),
        ("data=[digits]",),
        ("~data",),
        ("-m", "data=mine,digits"),
    ],
    ids=" ".join,
)
def test_what_is_another_s_to_decide_is_left_alone(
    argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ddiff.train", *argv])
    choose_recipe(sys.argv[1:])
    assert sys.argv[1:] == list(argv)


def test_data_of_your_own(tmp_path: Path, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    pets = {"_target_": "ddiff.data.Images", "root": str(folders / "pets"), "size": 32}
    for name, node in {"pets": pets, "odd": {"_target_": "mine.Data"}, "bad": {}}.items():
        OmegaConf.save(OmegaConf.create(node), tmp_path / f"data/{name}.yaml")
    recipe = ["experiment=pictures", "module=conditional_ddpm"]
    for flags in ([f"--config-dir={tmp_path}"], ["--config-dir", str(tmp_path)]):
        for name, words in {"pets": recipe, "bad": [], "none": []}.items():
            monkeypatch.setattr(sys, "argv", ["ddiff.train", *flags, f"data={name}"])
            choose_recipe(sys.argv[1:])
            assert sys.argv[1:] == [*flags, f"data={name}", *words]
        monkeypatch.setattr(sys, "argv", ["ddiff.train", *flags, "data=odd"])
        with pytest.raises(ConfigError, match=r"data=odd: .* add experiment=pictures"):
            choose_recipe(sys.argv[1:])


def test_a_sweep_gets_one_recipe_or_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ddiff.train", "-m", "data=digits,mnist", "seed=1,2"])
    choose_recipe(sys.argv[1:])
    recipe = ["experiment=pictures", "module=conditional_ddpm"]
    assert sys.argv[1:] == ["-m", "data=digits,mnist", *recipe, "seed=1,2"]
    monkeypatch.setattr(sys, "argv", ["ddiff.train", "-m", "data=digits,spheres"])
    with pytest.raises(ConfigError, match=r"experiment=volumes for spheres.*say experiment="):
        choose_recipe(sys.argv[1:])


def test_what_is_known_of_data_by_name_is_true() -> None:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        for name, facts in KNOWN.items():
            if name not in FOLDERS:
                node = resolved(compose("train", [f"data={name}", "experiment=pictures"])).data
                data = build(node)
                assert len(data.shape) - 1 == facts.dims
                assert (data.num_classes is not None) == facts.labelled
                assert "size" in node or data.shape[-1] == facts.size


@pytest.mark.parametrize("dims", [2, 3])
def test_a_net_of_every_size_that_has_one_can_be_built(dims: int) -> None:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = resolved(compose("train", ["net=unet_by_size"]))
    sizes = [size for size in range(1, 300) if fit((size,) * dims)]
    assert {8, 16, 28, 30, 32, 48, 64, 96, 128, 256} <= set(sizes)
    assert not {33, 50, 129} & set(sizes)
    for size in sizes:
        found = fit((size,) * dims)
        assert found is not None
        assert size % (found.patch_size * 2 ** (len(found.channels) - 1)) == 0
        if size in (9, 28, 30, 96):
            for option in ("channels", "patch_size", "num_blocks", "input_skip"):
                cfg.net[option] = getattr(found, option)
            cfg.net.shape = [3] + dims * [size]
            with torch.device("meta"):
                assert build_net(cfg.net)(torch.zeros(1, *cfg.net.shape), torch.zeros(1)).shape


def test_a_size_without_factors_of_two_is_told_which_would_do(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"data.size=50 has .*; 48 or 52 would do"):
        recipe_of(*SCANS, "data.size=50", cwd=folders, monkeypatch=monkeypatch)
    with pytest.raises(ConfigError, match=r"data.size: 1000000007 is more than 1024"):
        recipe_of(*SCANS, "data.size=1000000007", cwd=folders, monkeypatch=monkeypatch)
    with pytest.raises(ConfigError, match=r"data.size: 'big' is not an integer"):
        recipe_of(*SCANS, "data.size=big", cwd=folders, monkeypatch=monkeypatch)
    with pytest.raises(ConfigError, match=r"required: data.size=\.\.\."):
        recipe_of(*SCANS, cwd=folders, monkeypatch=monkeypatch)


SMOKE = ("trainer=smoke", "budget.max_steps=2", "solver.num_steps=2", "sampling.num_samples=2")
RUNS = {
    "photos": (*PHOTOS, "data.size=32"),
    "pets": (*PETS, "data.size=32"),
    "digits": ("data=digits",),
    "scans": (*SCANS, "data.size=32"),
}
WRONG = {
    "pictures for volumes": (
        ("experiment=volumes", "data=digits", "data.size=16"),
        "VoxelDDPM is for volumes, and the data are pictures of 1x16x16; use module=ddpm",
    ),
    "a module for volumes": (("data=digits", "module=voxel_ddpm"), "is for volumes"),
    "no labels": ((*PHOTOS, "data.size=32", "module=conditional_ddpm"), "needs labels"),
    "a sweep of two kinds": (("-m", "data=digits,spheres"), "sweep them apart"),
    "no sweep": (("data=digits,mnist",), "-m"),
    "no size": (PHOTOS, "required: data.size=..."),
    "no folder": (("data=images", "data.root=nowhere", "data.size=32"), "nowhere does not exist"),
    "an odd size": ((*PHOTOS, "data.size=33"), "32 or 36 would do"),
    "an odd option": ((*PHOTOS, "data.size=32", "net.chanels=[8]"), "'net.channels'"),
}
OTHERS = {
    "cfg": job("train", *PETS, "data.size=32", "--cfg", "job", "--resolve"),
    "sweep": job("train", "-m", "data=digits", "data.size=8,16", *SMOKE),
    "scores": job("importance", "data=digits", "bins=2", "min_batches=2", "max_batches=2"),
    "race": job("benchmark", "data=digits", "backends=[eager]", "precisions=[fp32]", "repeats=1",
                "num_steps=2", "batch_sizes=[2]", "out=race"),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(folders: Path, request: pytest.FixtureRequest) -> SimpleNamespace:
    wrong = {name: argv for name, (argv, _) in WRONG.items()}
    trains = bool(chosen(request, "name") & RUNS.keys())
    jobs = {
        n: job("train", *argv, *SMOKE) for n, argv in ((RUNS | wrong) if trains else wrong).items()
    }
    jobs |= OTHERS if trains else {}
    done = dict(zip(jobs, ddiff_many(list(jobs.values()), folders), strict=True))
    return SimpleNamespace(cwd=folders, done=done)


def config(run: Path) -> Any:
    return OmegaConf.load(run / "config.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "classes", "module"),
    [
        ("photos", [3, 32, 32], None, "DDPM"),
        ("pets", [3, 32, 32], 2, "ConditionalDDPM"),
        ("digits", [1, 8, 8], 10, "ConditionalDDPM"),
        ("scans", [1, 32, 32, 32], None, "VoxelDDPM"),
    ],
)
def test_it_trains(
    name: str, shape: list[int], classes: int | None, module: str, world: SimpleNamespace
) -> None:
    done: Done = world.done[name]
    assert (done.status, done.err) == (0, "")
    group = RUNS[name][0].removeprefix("data=")
    words = "experiment=volumes" if len(shape) == 4 else "experiment=pictures"
    words += " module=conditional_ddpm" if classes else ""
    first, second, *_ = done.out.splitlines()
    assert first == f"data={group} without experiment=: {words}"
    assert second.endswith("first: recipe=30min, docs/recipes.md")
    runs = [run.parent for run in world.cwd.glob(f"runs/{group}/*/config.yaml")]
    (run,) = [run for run in runs if config(run).data.get("root") in (None, name)]
    cfg = config(run)
    assert (cfg.net.shape, cfg.net.num_classes) == (shape, classes)
    assert cfg.module["_target_"] == f"ddiff.training.modules.{module}"
    assert checkpoint(run)["ddiff"]["overrides"][: 1 + len(words.split())] != []
    assert set(words.split()) < set(checkpoint(run)["ddiff"]["overrides"])
    samples = np.load(run / "samples/step_000002.npy")
    assert samples.shape == (2, *shape)
    assert np.abs(samples).max() <= 1


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_go_together_is_a_line(name: str, world: SimpleNamespace) -> None:
    done: Done = world.done[name]
    assert WRONG[name][1] in done.err, done.err
    assert (len(done.err.splitlines()), done.err[:7]) == (1, "ddiff: ")
    assert done.status == (1 if name == "no folder" else 2)


@pytest.mark.slow
def test_other_commands_choose_alike(world: SimpleNamespace) -> None:
    for name in OTHERS:
        assert world.done[name].status == 0, world.done[name].err
    cfg = OmegaConf.create(world.done["cfg"].out)
    assert (cfg.name, cfg.net.channels, cfg.net.patch_size) == ("images", MIDDLE, 1)
    swept = sorted(world.cwd.glob("runs/digits/*/*/config.yaml"))
    assert [config(path.parent).data.size for path in swept] == [8, 16]
    assert "experiment=pictures" in world.done["scores"].out
    assert (world.cwd / "race/benchmark.json").is_file()


@pytest.mark.slow
def test_runs_resume_with_what_was_chosen(world: SimpleNamespace) -> None:
    """Also one from before the choice, whose command named no experiment: the spheres' then."""
    cwd = world.cwd
    (digits,) = [path.parent for path in cwd.glob("runs/digits/*/config.yaml")]
    old = ("experiment=voxel_adaptive", "data=spheres", "data.size=16", "net.patch_size=1", *SMOKE)
    flat = ("experiment=volumes", "data=digits", "data.size=16", "module=ddpm", *SMOKE)
    started = [job("train", *old, "run_dir=old"), job("train", *flat, "run_dir=flat")]
    assert [done.err for done in ddiff_many(started, cwd)] == ["", ""]
    for run in ("old", "flat"):
        path = cwd / run / "checkpoints/last.ckpt"
        content = torch.load(path, weights_only=True)
        words = content["ddiff"]["overrides"]
        content["ddiff"]["overrides"] = [
            word for word in words if not word.startswith(("experiment=", "module="))
        ]
        content["ddiff"]["config"]["module"]["_target_"] = "ddiff.training.modules.VoxelDDPM"
        torch.save(content, path)
    more = ("budget.max_steps=3",)
    resumed = [
        job("train", f"ckpt_path={os.path.relpath(digits, cwd)}", *more),
        job("train", "ckpt_path=old", *more),
        job("train", "ckpt_path=flat", *more),
    ]
    new, before, pictures = ddiff_many(resumed, cwd)
    assert (new.err, before.err, pictures.err) == ("", "", "")
    assert (config(digits).name, checkpoint(digits)["global_step"]) == ("digits", 3)
    assert (config(cwd / "old").name, checkpoint(cwd / "old")["global_step"]) == (
        "voxel_adaptive",
        3,
    )
    assert checkpoint(cwd / "flat")["global_step"] == 3
    assert config(cwd / "flat").module["_target_"] == "ddiff.training.modules.VoxelDDPM"

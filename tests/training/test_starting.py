"""init=: what a new training takes from the weights of another, and what it says of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

import ddiff
import ddiff.config.resolvers
from ddiff.build import build_net
from ddiff.config.options import Train, typed
from ddiff.config.sweeps import name_of
from ddiff.config.trees import resolved
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.training import starting
from ddiff.training.starting import Start, brought, start_from, with_parts_of_source
from tests.artifacts.worlds import make_run
from tests.support.runs import checkpoint, ddiff_many, job

PEERS = Path(__file__).parents[1] / "interchange" / "peers"
FOLDER, BUNDLE = PEERS / "diffusers", PEERS / "monai"
DIGITS = ("experiment=pictures", "data=digits")


def composed(*words: str) -> DictConfig:
    """The config that `train` would use."""
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = resolved(compose("train", list(words)))
    return with_parts_of_source(cfg, [name_of(word) for word in words])


def started(
    *words: str, shape: tuple[int, ...] = (1, 8, 8), labels: int | None = None
) -> tuple[torch.nn.Module, Start]:
    """The net that a training would begin with."""
    options = typed(Train, composed(*words))
    options.net.shape, options.net.num_classes = list(shape), labels
    torch.manual_seed(3)
    net = build_net(options.net).eval()
    return net, start_from(options, net, brought([name_of(word) for word in words]))


def predictions(net: torch.nn.Module, y: list[int] | None = None) -> torch.Tensor:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net(x, torch.tensor([0, 400, 999]), None if y is None else torch.tensor(y))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with labels, objective v and the schedule cosine."""
    return make_run(tmp_path_factory.mktemp("labelled") / "run", "2D")


def test_a_folder_brings_its_net_schedule_and_objective() -> None:
    cfg = composed(*DIGITS, f"init={FOLDER}")
    assert cfg.net.channels == [4, 8]
    assert cfg.net.attention == [4]
    assert (cfg.net.downsample_padding, cfg.net.norm_eps) == ("end", 1e-6)
    assert cfg.net.shape is None  # comes from the data
    assert cfg.schedule._target_.endswith(".linear")
    assert cfg.objective._target_.endswith(".Eps")
    net, start = started(*DIGITS, f"init={FOLDER}")
    assert torch.equal(predictions(net), predictions(ddiff.load(FOLDER, accelerator="cpu").net))
    assert start.anew == {}
    assert "128 of 128 tensors; with its net, schedule, objective" in str(start)


def test_what_the_command_says_counts_more() -> None:
    said = ("net.dropout=0.25", "schedule=cosine", "objective.weighting=min_snr")
    cfg = composed(*DIGITS, f"init={FOLDER}", *said)
    assert cfg.net.channels == [4, 8]
    assert cfg.net.dropout == 0.25
    assert cfg.schedule._target_.endswith(".cosine")
    assert cfg.objective._target_.endswith(".Eps")
    assert cfg.objective.weighting == "min_snr"


def test_another_objective_makes_the_head_anew() -> None:
    net, start = started(*DIGITS, f"init={FOLDER}", "objective=v")
    assert set(start.anew) == {"out.weight", "out.bias"}
    assert "made anew for objective V, not Eps: out.weight, out.bias" in str(start)
    assert torch.equal(predictions(net), torch.zeros(3, 1, 8, 8))
    before = ddiff.load(FOLDER, accelerator="cpu").net.state_dict()
    assert torch.equal(net.state_dict()["norm.weight"], before["norm.weight"])


def test_new_labels_begin_as_no_label() -> None:
    net, start = started(*DIGITS, f"init={FOLDER}", labels=10)
    assert list(start.anew) == ["condition.labels.weight"]
    before = predictions(ddiff.load(FOLDER, accelerator="cpu").net)
    torch.testing.assert_close(predictions(net, [-1, 0, 9]), before)


def test_labels_that_go_leave_what_no_label_added(labelled: Path) -> None:
    net, start = started(*DIGITS, f"init={labelled}")
    assert start.left == ["condition.labels.weight"]
    assert "not used: condition.labels.weight" in str(start)
    before = predictions(ddiff.load(labelled, accelerator="cpu").net)
    torch.testing.assert_close(predictions(net), before)
    other, _ = started(*DIGITS, f"init={labelled}", labels=4)
    torch.testing.assert_close(predictions(other, [-1, 0, 3]), before)


def test_attention_stays_at_its_level_of_larger_pictures() -> None:
    words = (*DIGITS, "data=images", "data.root=x", f"init={FOLDER}")
    assert composed(*words, "data.size=64").net.attention == [32]
    deep = DictConfig({"shape": [1, 32, 32], "channels": [8] * 5})
    with pytest.raises(ConfigError, match="needs a size that divides by 16, and the data have 8"):
        starting._fit(deep, composed(*DIGITS, f"init={FOLDER}"), "cats")
    with pytest.raises(ConfigError, match="is for pictures, and data= are volumes"):
        composed("experiment=volumes", "data=spheres", f"init={FOLDER}")


def test_other_channels_are_told() -> None:
    net, start = started(*DIGITS, f"init={FOLDER}", shape=(3, 8, 8))
    assert "made anew, 4x3x3x3 and not 4x1x3x3: stem.weight" in str(start)
    assert {"stem.weight", "out.weight", "out.bias"} == set(start.anew)
    assert net.state_dict()["stem.weight"].shape == (4, 3, 3, 3)


def test_a_transformer_begins_at_another_size_with_all_that_it_learned(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "dit")
    net, start = started(*DIGITS, f"init={run}", shape=(1, 16, 16), labels=10)
    assert (start.anew, start.left) == ({}, [])
    learned = ddiff.load(run, accelerator="cpu").net.state_dict()
    assert {*learned} == {*net.state_dict()}
    assert all(torch.equal(value, learned[name]) for name, value in net.state_dict().items())
    same, _ = started(*DIGITS, f"init={run}", labels=10)
    expected = predictions(ddiff.load(run, accelerator="cpu").net, [-1, 0, 9])
    torch.testing.assert_close(predictions(same, [-1, 0, 9]), expected)


def test_a_bundle_takes_its_size_from_the_data() -> None:
    words = ("experiment=volumes", "data=spheres", "data.size=16", f"init={BUNDLE}")
    assert composed(*words).net.attention == [8]
    _, start = started(*words, shape=(1, 16, 16, 16))
    assert len(start.taken) == 128


@pytest.mark.parametrize(
    "file",
    [FOLDER / "unet/diffusion_pytorch_model.safetensors", BUNDLE / "models/model.safetensors"],
    ids=["diffusers", "MONAI"],
)
def test_a_file_of_tensors_needs_the_options_of_the_net(file: Path) -> None:
    dims = 3 if file.is_relative_to(BUNDLE) else 2
    own = ["net=unet", "net.channels=[4,8]", "net.num_blocks=1", "net.groups=4", "net.head_dim=4",
           "net.attention=[4]", "net.modulation=shift", "net.embedding.out_dim=null",
           f"init={file}", "objective=eps"]  # fmt: skip
    words = DIGITS if dims == 2 else ("experiment=volumes", "data=spheres", "data.size=8")
    net, start = started(*words, *own, shape=(1, *[8] * dims))
    assert (len(start.taken), start.anew, start.left, start.parts) == (128, {}, [], [])
    theirs = load_file(file)
    assert torch.equal(net.state_dict()["norm.weight"],
                       theirs["conv_norm_out.weight" if dims == 2 else "out.0.weight"])  # fmt: skip


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere", "there is no run or checkpoint nowhere"),
        ("model.onnx", "model.onnx is an exported file, .*; give the run .* format=safetensors"),
        ("model.pt2", "model.pt2 is an exported file"),
        ("nowhere.safetensors", "cannot read nowhere.safetensors"),
    ],
)
def test_sources_that_are_none(source: str, words: str) -> None:
    with pytest.raises(DdiffError, match=words):
        composed(*DIGITS, f"init={source}")


def test_nothing_that_fits(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"no tensor of .*a\.safetensors fits this net"):
        started(*DIGITS, f"init={tmp_path / 'a.safetensors'}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    cwd = tmp_path_factory.mktemp("world")
    small = ("debug=smoke", "trainer=cpu", "precision=fp32", "backend=eager")
    jobs = {
        "start": job("train", f"init={FOLDER}", "data=digits", "module=ddpm", *small, "run_dir=a"),
        "go on": job("train", "ckpt_path=a", "budget.max_steps=5"),
        "export": job("export", "run=a", "format=diffusers", "out=folder"),
        "sample": job("sample", "run=folder", "num_samples=2", "solver.num_steps=2", "out=s"),
        "again": job("train", "init=folder", "data=digits", "module=ddpm", *small, "run_dir=b"),
        "both": job("train", f"init={FOLDER}", "ckpt_path=a"),
        "same place": job("export", "run=a", "format=diffusers", "out=folder"),
        "labels": job("export", "run=a", "format=diffusers", "out=x", "solver=dpmpp_2m"),
        "measure": job("importance", "run=folder"),
    }
    return cwd, dict(zip(jobs, ddiff_many(list(jobs.values()), cwd), strict=True))


def test_a_training_starts_goes_on_and_leaves(world: tuple[Path, dict[str, Any]]) -> None:
    cwd, done = world
    for name in ("start", "go on", "export", "sample", "again"):
        assert (done[name].status, done[name].err) == (0, ""), name
    assert "128 of 128 tensors" in done["start"].out
    noted = json.loads((cwd / "a/environment.json").read_text())["before"][0]["init"]
    assert (noted["source"], noted["taken"]) == (str(FOLDER), 128)
    assert checkpoint(cwd / "a")["global_step"] == 5
    assert checkpoint(cwd / "a")["ddiff"]["config"]["net"]["channels"] == [4, 8]


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("both", 2, "init: starts a new training, and ckpt_path continues one"),
        ("same place", 2, "folder exists already"),
        ("labels", 2, "add solver=ddim or solver=ddpm"),
        ("measure", 1, "folder is not a run"),
    ],
)
def test_mistakes_are_one_line(
    world: tuple[Path, dict[str, Any]], name: str, status: int, words: str
) -> None:
    done = world[1][name]
    assert done.status == status
    assert words in done.err
    assert len(done.err.splitlines()) == 1

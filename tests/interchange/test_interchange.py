"""Folders of diffusers and MONAI: tiny nets with random weights, and what their libraries computed.

tests/interchange/peers was made by tests/interchange/peer_side.py, with diffusers 0.42.1 and MONAI
1.6.1; neither is needed here. ddiff exported the folder from_ddiff, and diffusers opened it and
computed what lies beside it. test_peers.py compares with the libraries themselves.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import load_file, save_file

import ddiff
from ddiff.artifacts.trained import Trained
from ddiff.artifacts.writing import Exported
from ddiff.config.targets import build
from ddiff.config.trees import resolved
from ddiff.diffusion import objectives, schedules, solve, solvers
from ddiff.interchange.diffusers import scheduler_config, unet_config
from ddiff.interchange.folders import read_foreign
from ddiff.interchange.names import DIFFUSERS, MONAI, names_in, to_theirs
from ddiff.system.checkpoints import load_checkpoint
from ddiff.system.errors import ConfigError, DdiffError
from tests.artifacts.worlds import export_of, make_run
from tests.support.runs import ddiff_many, job

PEERS = Path(__file__).parent / "peers"
TOLERANCE = {"rtol": 0, "atol": 1e-5}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder of diffusers, to change."""
    shutil.copytree(PEERS / "diffusers", tmp_path / "cats")
    return tmp_path / "cats"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    shutil.copytree(PEERS / "monai", tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("plain") / "run", "plain")


def recorded(folder: Path) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(folder / "recorded.npz").items()}


def change(path: Path, **options: Any) -> None:
    tree = json.loads(path.read_text()) | options
    path.write_text(json.dumps({k: v for k, v in tree.items() if v != "absent"}))


def samples(model: ddiff.Model, x: torch.Tensor, num_steps: int = 20) -> torch.Tensor:
    given = model.config["solver"]
    spacing, offset = given["spacing"], given.get("steps_offset", 0)
    plan = solvers.ddim(model.schedule, num_steps, 0.0, spacing, offset)
    with torch.no_grad():
        *_, last = solve(model.net, plan, model.objective, x, clamp=1.0)
    return last.x


def prediction(model: ddiff.Model, made: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.net(made["x"], made["t"])


@pytest.mark.parametrize(
    ("name", "objective"),
    [("diffusers", objectives.Eps), ("diffusers_v", objectives.V), ("from_ddiff", objectives.V)],
)
def test_a_folder_in_diffusers_is_the_net_that_it_is_here(name: str, objective: type) -> None:
    """Two that diffusers wrote, and one that ddiff wrote and diffusers ran."""
    made, model = recorded(PEERS / name), ddiff.load(PEERS / name, accelerator="cpu")
    torch.testing.assert_close(prediction(model, made), made["prediction"], **TOLERANCE)
    torch.testing.assert_close(samples(model, made["x"]), made["samples"], rtol=0, atol=1e-4)
    assert made["samples"].std() > 0.1
    assert type(model.objective) is objective
    assert (model.shape, model.num_classes, model.step) == ((1, 8, 8), None, 0)


def test_a_bundle_of_monai_is_the_net_that_it_was() -> None:
    made = recorded(PEERS / "monai")
    model = ddiff.load(PEERS / "monai", accelerator="cpu", shape=(1, 8, 8, 8))
    torch.testing.assert_close(prediction(model, made), made["prediction"], **TOLERANCE)
    wanted = schedules.scaled_linear(1000, 0.0015, 0.0195, rescale=False)
    assert torch.equal(model.schedule.abar, wanted.abar)
    with pytest.raises(DdiffError, match=r"does not say the size .* add shape=\[1,D,H,W\]"):
        ddiff.load(PEERS / "monai")


def test_a_bundle_is_measured_and_timed_with_its_shape(tmp_path: Path) -> None:
    shutil.copytree(PEERS / "monai", tmp_path / "monai")
    np.save(tmp_path / "balls.npy", np.random.default_rng(0).integers(0, 2, (4, 1, 8, 8, 8)))
    said = ("run=monai", "shape=[1,8,8,8]", "accelerator=cpu", "threads=1")
    draw = ("num_samples=2", "solver.num_steps=2", "metrics=[pieces]", "reference=balls.npy")
    evaluated, timed, *refused = ddiff_many(
        [
            job("evaluate", *said, *draw, "out=figures.json"),
            job("benchmark", *said[:3], "backends=[eager]", "precisions=[fp32]", "num_steps=2",
                "repeats=1", "batch_sizes=[1]", "out=race"),
            job("evaluate", "samples=balls.npy", *draw[2:], "shape=[1,8,8,8]"),
            job("benchmark", "shape=[1,8,8,8]", "experiment=digits_ddpm"),
        ],
        tmp_path,
    )  # fmt: skip
    for done in (evaluated, timed):
        assert done.status == 0, done.err
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert {figure["n"] for figure in figures} == {2}
    assert (tmp_path / "race/benchmark.json").is_file()
    lines = ("shape: nothing is drawn with samples=", "shape: is of a folder that run= names")
    for done, line in zip(refused, lines, strict=True):
        assert (done.status, done.err.startswith(f"ddiff: {line}")) == (2, True), done.err


def in_the_root(folder: Path) -> None:
    """A folder laid out like google/ddpm-cifar10-32: the net's files at its top."""
    for file in [*folder.glob("unet/*"), *folder.glob("scheduler/*")]:
        file.rename(folder / file.name)
    (folder / "unet").rmdir()


def with_old_names(folder: Path) -> None:
    """Diffusers named the parts of attention otherwise before 0.17."""
    state = load_file(folder / WEIGHTS)
    for now, then in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"),
                      ("to_out.0", "proj_attn")):  # fmt: skip
        state = {name.replace(f".{now}.", f".{then}."): v for name, v in state.items()}
    save_file(state, folder / WEIGHTS)


def pickled(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    torch.save(state, folder / "unet/diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize("changed", [in_the_root, with_old_names, pickled])
def test_other_layouts_are_the_same_net(folder: Path, changed: Callable[[Path], None]) -> None:
    changed(folder)
    made = recorded(PEERS / "diffusers")
    found = prediction(ddiff.load(folder, accelerator="cpu"), made)
    torch.testing.assert_close(found, made["prediction"], **TOLERANCE)


def test_an_earlier_bundle_is_the_same_net(bundle: Path) -> None:
    """MONAI Generative named the parts otherwise: here in a pickle, with settings by reference."""
    (file,) = (bundle / "models").iterdir()
    state = load_file(file)
    for now, then in ((".attn.to_", ".to_"), (".attn.out_proj.", ".proj_attn."),
                      ("postconv", "conv")):  # fmt: skip
        state = {name.replace(now, then): value for name, value in state.items()}
    torch.save({"state_dict": state}, file.with_suffix(".pt"))
    file.unlink()
    path = bundle / "configs/inference.json"
    tree = json.loads(path.read_text())
    tree["network_def"]["num_channels"] = tree["network_def"].pop("channels")
    path.write_text(json.dumps(tree))
    made = recorded(PEERS / "monai")
    model = ddiff.load(bundle, accelerator="cpu", shape=(1, 8, 8, 8))
    torch.testing.assert_close(prediction(model, made), made["prediction"], **TOLERANCE)


def test_one_linear_layer_for_q_k_and_v(bundle: Path) -> None:
    (file,) = (bundle / "models").iterdir()
    state = load_file(file)
    for name in [n for n in state if ".to_q." in n]:
        parts = [state.pop(name.replace("to_q", f"to_{one}")) for one in "qkv"]
        state[name.replace("to_q", "qkv")] = torch.cat(parts)
    save_file(state, file)
    made = recorded(PEERS / "monai")
    model = ddiff.load(bundle, accelerator="cpu", shape=(1, 8, 8, 8))
    torch.testing.assert_close(prediction(model, made), made["prediction"], **TOLERANCE)


@pytest.mark.parametrize("library", [DIFFUSERS, MONAI], ids=lambda one: one.name)
def test_every_tensor_has_names_of_its_own(library: Any) -> None:
    net = ddiff.nets.UNet((1, 8, 8), None, [8, 16, 16], num_blocks=2, attention=[4, 2])
    own = net.state_dict()
    names = names_in(library, own, 3, 2)
    theirs = to_theirs(own, names)
    assert len(theirs) == sum(map(len, names.values()))
    assert sum(v.numel() for v in theirs.values()) == sum(v.numel() for v in own.values())


# ------------------------------------------------------------------------ out of ddiff


def test_a_run_comes_back_from_a_folder(run: Path) -> None:
    done = export_of(run, "Diffusers")
    ours, back = ddiff.load(run, accelerator="cpu"), ddiff.load(done.path, accelerator="cpu")
    state, other = ours.net.state_dict(), back.net.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state.keys() | other.keys())
    torch.testing.assert_close(back.schedule.abar, ours.schedule.abar, rtol=0, atol=1e-12)
    assert back.objective == ours.objective
    assert torch.equal(samples(back, torch.ones(1, 1, 8, 8)), samples(ours, torch.ones(1, 1, 8, 8)))
    index = json.loads((done.path / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    card = (done.path / "README.md").read_text()
    for words in ("DDIMPipeline", "use_clipped_model_output=True", "at step 7", "images 28"):
        assert words in card
    assert done.facts["verified"]["max_error"] == 0
    config = json.loads((done.path / "unet/config.json").read_text())
    assert config["attn_norm_num_groups"] == config["norm_num_groups"] == 8
    assert config["time_embedding_dim"] == 256


def test_ddiff_still_writes_the_folder_that_diffusers_ran(tmp_path: Path) -> None:
    then = PEERS / "from_ddiff"
    now = export_of(then, "Diffusers", out=str(tmp_path / "now")).path
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        assert json.loads((now / name).read_text()) == json.loads((then / name).read_text()), name
    old, new = load_file(then / WEIGHTS), load_file(now / WEIGHTS)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_run_comes_back_from_safetensors(run: Path) -> None:
    done: Exported = export_of(run, "Safetensors")
    assert done.path == run / "artifacts/model.safetensors"
    ours, back = ddiff.load(run), ddiff.load(done.path)
    assert back.step == 7
    assert back.config == ours.config
    assert np.array_equal(back.sample(2, num_steps=2), ours.sample(2, num_steps=2))
    with pytest.raises(ConfigError, match="holds ema, not net"):
        ddiff.load(done.path, weights="net")
    raw = export_of(run, "Safetensors", weights="net", overwrite=True)
    kept = load_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]
    assert torch.equal(load_file(raw.path)["stem.weight"], kept["net.stem.weight"])


def test_a_file_that_was_changed_is_refused(run: Path, tmp_path: Path) -> None:
    done = export_of(run, "Safetensors", out=str(tmp_path / "a.safetensors"))
    raw = bytearray(done.path.read_bytes())
    raw[-2] ^= 64
    done.path.write_bytes(raw)
    with pytest.raises(DdiffError, match="its numbers are not those that were exported"):
        ddiff.load(done.path)
    save_file({"a": torch.zeros(1)}, done.path)
    with pytest.raises(DdiffError, match="carries no config of ddiff"):
        ddiff.load(done.path)


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (schedules.linear(50, rescale=False), "linear"),
        (schedules.linear(50), "linear"),
        (schedules.scaled_linear(40, rescale=False), "scaled_linear"),
        (schedules.constant(20), "linear"),
        (schedules.cosine(60), "squaredcos_cap_v2"),
        (schedules.sigmoid(30), None),
        (schedules.shifted(schedules.cosine(30), 0.1), None),
        (schedules.zero_terminal_snr(schedules.linear(30)), None),
    ],
)
def test_schedules_there_and_back(schedule: Any, name: str | None, folder: Path) -> None:
    solver: Any = {"_target_": "ddiff.diffusion.solvers.ddim"}
    config = scheduler_config(schedule, objectives.V(), solver, 1.0)
    assert ("trained_betas" in config) == (name is None)
    assert name in (None, config["beta_schedule"])
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    found = ddiff.load(folder)
    torch.testing.assert_close(found.schedule.abar, schedule.abar, rtol=1e-9, atol=1e-14)
    assert found.config["solver"]["spacing"] == "trailing"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"_target_": "ddiff.nets.Simple2d"}, "net: format=diffusers is for net=unet"),
        ({"shape": [1, 8, 8, 8]}, r"net\.shape: .* volumes"),
        ({"num_classes": 10}, r"net\.num_classes: .* labels"),
        ({"patch_size": 2}, r"net\.patch_size: .* 2, not 1"),
        ({"input_skip": True}, r"net\.input_skip"),
        ({"bounded": True}, r"net\.bounded"),
        ({"embedding": {"_target_": "ddiff.nets.LogSNR", "dim": 8}}, r"net\.embedding: "),
        ({"embedding": {"_target_": "ddiff.nets.Sinusoidal", "dim": 64}}, r"embedding\.dim: .*64"),
    ],
)
def test_nets_that_cannot_leave(run: Path, options: dict[str, Any], words: str) -> None:
    trained = Trained.load(str(run))
    with pytest.raises(ConfigError, match=words):
        unet_config(trained.net, {**trained.options.net, **options})


@pytest.mark.parametrize("name", ["unet", "unet_small", "unet_tiny"])
def test_presets_leave_with_their_own_options(name: str) -> None:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        words = ["experiment=cifar10_ddpm", f"net={name}", "net.shape=[3,32,32]"]
        node = resolved(compose("train", words)).net
    with torch.device("meta"):
        config = unet_config(build(node), node)
    assert config["block_out_channels"] == list(node.channels)
    assert config["norm_num_groups"] == node.groups
    assert config["time_embedding_dim"] == 256


def test_group_norms_of_several_numbers_cannot_leave(run: Path) -> None:
    node = {**Trained.load(str(run)).options.net, "channels": [8, 12], "groups": 8}
    net = ddiff.nets.UNet((1, 8, 8), None, [8, 12], groups=8)
    with pytest.raises(ConfigError, match=r"net\.groups: .* of \[5, 6, 8\] groups"):
        unet_config(net, node)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"_target_": "ddiff.diffusion.solvers.dpmpp_2m"}, "add solver=ddim or solver=ddpm"),
        ({"_target_": "x.ddim", "spacing": "logsnr"}, r"solver\.spacing: .* no logsnr"),
    ],
)
def test_solvers_that_cannot_leave(options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scheduler_config(schedules.linear(), objectives.Eps(), options, None)


def test_a_folder_that_is_there_is_kept(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_of(run, "Diffusers", out=str(out))
    before = (out / WEIGHTS).read_bytes()
    (out / "old").write_text("")
    with pytest.raises(ConfigError, match=r"out exists already; .* overwrite=true"):
        export_of(run, "Diffusers", out=str(out))
    export_of(run, "Diffusers", out=str(out), overwrite=True)
    assert (out / WEIGHTS).read_bytes() == before
    assert not (out / "old").exists()
    (tmp_path / "mine").mkdir()
    export_of(run, "Diffusers", out=str(tmp_path / "mine"))  # was empty
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/dear").write_text("")
    with pytest.raises(ConfigError, match="letters is a folder of something else"):
        export_of(run, "Diffusers", out=str(tmp_path / "letters"), overwrite=True)
    with pytest.raises(ConfigError, match="format=diffusers holds float32, not bf16"):
        export_of(run, "Diffusers", "bf16", out=str(tmp_path / "half"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["letters", "mine", "out"]


# ------------------------------------------------------------------------- what is refused


UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WRONG = {  # file, its options, words of the line
    "class": (UNET, {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel; ddiff reads"),
    "block": (UNET, {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "SkipDownBlock2D"),
    "other levels": (UNET, {"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "up_block_types"),
    "too few blocks": (UNET, {"down_block_types": ["DownBlock2D"]}, "names 1 blocks and .* 2"),
    "variance": (UNET, {"out_channels": 2}, "out_channels: 2 is not in_channels"),
    "labels": (UNET, {"num_class_embeds": 10}, "num_class_embeds: 10 is not"),
    "fourier": (UNET, {"time_embedding_type": "fourier"}, "'fourier' is not one of positional"),
    "no norm": (UNET, {"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups: null"),
    "no size": (UNET, {"sample_size": None}, r"sample_size is null; say shape=\[1,H,W\]"),
    "type": (UNET, {"block_out_channels": "wide"}, "block_out_channels: 'wide' is not a list"),
    "new": (UNET, {"gated": True}, "gated=True is no option of UNet2DModel"),
    "wide": (UNET, {"block_out_channels": [8, 8]}, "also holds .*resnets.0.conv_shortcut"),
    "deep": (UNET, {"layers_per_block": 2}, "it lacks .*resnets.1.* and .* more"),
    "shallow": (UNET, {"add_attention": False}, "it also holds mid_block.attentions.0"),
    "scheduler": (SCHEDULER, {"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler; ddiff"),
    "widths": (UNET, {"block_out_channels": [8, 8], "norm_num_groups": 8},
               "also holds|is 4 in the file and 8 by the config"),
    "prediction": (SCHEDULER, {"prediction_type": "score"}, "'score' is not one of epsilon"),
    "betas": (SCHEDULER, {"beta_schedule": "laplace"}, "'laplace' is not one of linear"),
    "variance type": (SCHEDULER, {"variance_type": "learned"}, "variance_type: 'learned'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_folder_that_ddiff_cannot_express(folder: Path, name: str) -> None:
    file, options, words = WRONG[name]
    change(folder / file, **options)
    with pytest.raises(DdiffError, match=words) as caught:
        ddiff.load(folder)
    assert len(str(caught.value).splitlines()) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def no_json(path: Path) -> None:
    path.write_text("{")


BROKEN = {  # file, what happens to it, words of the line
    "no config": (UNET, Path.unlink, "lacks unet/config.json"),
    "no weights": (WEIGHTS, Path.unlink, "has no diffusion_pytorch_model.safetensors"),
    "no scheduler": (SCHEDULER, Path.unlink, "has no scheduler/scheduler_config.json"),
    "half a config": (UNET, no_json, "config.json: it is no JSON"),
    "half a file": (WEIGHTS, cut, "cut short or no safetensors file"),
    "no tensors": (WEIGHTS, no_json, "cut short or no safetensors file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder(folder: Path, name: str) -> None:
    file, broken, words = BROKEN[name]
    broken(folder / file)
    with pytest.raises(DdiffError, match=words) as caught:
        ddiff.load(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_shape_of_another_kind(folder: Path) -> None:
    with pytest.raises(DdiffError, match="has 1 channels, and shape says 3"):
        ddiff.load(folder, shape=(3, 8, 8))
    with pytest.raises(DdiffError, match=r"shape is written \[C,H,W\]"):
        ddiff.load(folder, shape=(1, 8, 8, 8))
    assert ddiff.load(folder, shape=(1, 16, 16)).sample(1, num_steps=1).shape == (1, 1, 16, 16)
    with pytest.raises(ConfigError, match="leave shape out"):
        ddiff.load("tests/old_runs/pictures", shape=(1, 8, 8))


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DdiffError, match=r"not a run: .* nor is it a folder of diffusers"):
        ddiff.load(tmp_path)


def test_without_the_package(folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for work in (lambda: ddiff.load(folder), lambda: export_of(run, "Safetensors", overwrite=True)):
        with pytest.raises(DdiffError, match="needs the package safetensors: pip install"):
            work()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"with_conditioning": True}, "with_conditioning: true is not one of False"),
        ({"num_class_embeds": 3}, "num_class_embeds: 3 is not"),
        ({"out_channels": 2}, "out_channels: 2 is not in_channels"),
        ({"num_res_blocks": [1, 2]}, "one number for all levels"),
        ({"_target_": "AutoencoderKL"}, "defines no DiffusionModelUNet"),
    ],
)
def test_a_bundle_that_ddiff_cannot_express(bundle: Path, options: Any, words: str) -> None:
    path = bundle / "configs/inference.json"
    tree = json.loads(path.read_text())
    tree["network_def"] |= options
    path.write_text(json.dumps(tree))
    with pytest.raises(DdiffError, match=words):
        read_foreign(bundle, [1, 8, 8, 8])

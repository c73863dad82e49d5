"""Latents as data: encoded once, in units of their own, decoded wherever samples are shown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import ddiff
from ddiff.artifacts.decoding import DecoderFile
from ddiff.artifacts.trained import Trained, load_net
from ddiff.backends import Eager
from ddiff.build import build
from ddiff.data import Data, Digits, Latent
from ddiff.diffusion.guidance import ClassifierFree
from ddiff.diffusion.solvers import ddim
from ddiff.nets.autoencoder import Decoder
from ddiff.sampling.generation import generation_by
from ddiff.sampling.given import refuse_in_latents
from ddiff.system.checkpoints import load_checkpoint, save_checkpoint
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.precision import Precision
from tests.support.runs import Done, checkpoint, ddiff_many, differences, job, scalars

SMALL = ("budget.log_every=1", "precision=fp32", "backend=eager", "trainer.accelerator=cpu")
AUTOENCODER = ("experiment=autoencoder", "net.channels=[8,16]", "net.latent_channels=2",
               "budget.max_steps=60", "budget.batch_size=16", "budget.val_every=60",
               *SMALL)  # fmt: skip
LATENT = ("experiment=digits_latent", "data.run=encoder", "net.channels=[8,16]",
          "net.num_blocks=1", "net.mid_attention=false", "budget.batch_size=8",
          "budget.val_every=6", "solver.num_steps=3", "metrics=[memorisation]",
          "evaluation.every=12", "evaluation.num_samples=4", "sampling.num_samples=4",
          *SMALL)  # fmt: skip


def does(cwd: Path, *jobs: dict) -> list[Done]:
    done = ddiff_many(list(jobs), cwd)
    assert [(d.status, d.err) for d in done] == [(0, "")] * len(done)
    return done


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`encoder`: an autoencoder of digits. `run`: a diffusion in its latents."""
    cwd = tmp_path_factory.mktemp("latents")
    does(
        cwd,
        job("train", *AUTOENCODER, "run_dir=encoder"),
        job("train", *LATENT, "budget.max_steps=12", "run_dir=run"),
    )
    return cwd


def latents(world: Path, cache: Path | None = None, **digits: object) -> Latent:
    of = Digits(batch_size=8, seed=0, **digits)  # pyright: ignore[reportArgumentType]
    place = None if cache is None else str(cache)
    data = Latent(batch_size=8, seed=0, run=str(world / "encoder"), of=of, cache=place)
    data.prepare_data()
    data.setup("fit")
    return data


def everything(data: Data) -> tuple[torch.Tensor, torch.Tensor | None]:
    return data.train.batch(torch.arange(len(data.train)))


def test_latents_are_means_of_unit_variance_with_the_labels_of_the_data(world: Path) -> None:
    data = latents(world)
    z, y = everything(data)
    x, labels = everything(data.of)
    assert data.shape == (2, 4, 4) == tuple(z.shape[1:])
    assert y is not None
    assert torch.equal(y, labels)
    channels = z.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(channels.mean(1), torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(channels.std(1), torch.ones(2).double(), atol=1e-4, rtol=0)
    net, _, _ = load_net(world / "encoder/checkpoints/last.ckpt")
    mean, log_variance = net.encode(x)
    assert data.decoder
    wide = (slice(None), None, None)
    in_units = (mean - data.decoder.mean[wide]) / data.decoder.std[wide]
    torch.testing.assert_close(z, in_units, atol=1e-4, rtol=1e-4)
    # a draw from the posterior would add its own variance, which is not small here
    assert (log_variance.exp().mean() / mean.var()) > 1e-3
    assert data.decoder.bound == float(z.abs().max())


def test_encoding_twice_gives_the_same_bits_and_the_cache_gives_them_again(
    world: Path, tmp_path: Path
) -> None:
    first, second = (everything(latents(world))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, everything(latents(world, tmp_path))[0])
    (file,) = tmp_path.glob("latents_*.pt")
    written = file.stat().st_mtime_ns
    assert torch.equal(first, everything(latents(world, tmp_path))[0])
    assert file.stat().st_mtime_ns == written
    bigger = latents(world, tmp_path, conditions=["text"])  # which changes no sample
    assert torch.equal(first, everything(bigger)[0])
    assert len(list(tmp_path.glob("latents_*.pt"))) == 1
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DdiffError, match=r"data\.cache: .*delete it, and it is made anew"):
        latents(world, tmp_path)
    torch.save({"train": first}, file)
    with pytest.raises(DdiffError, match="holds no latents of these data"):
        latents(world, tmp_path)


def test_decoding_errs_as_the_autoencoder_said(world: Path) -> None:
    data = latents(world)
    z, _ = data.val.batch(torch.arange(len(data.val)))
    x, _ = data.of.val.batch(torch.arange(len(data.val)))
    assert data.decoder
    error = float((data.decoder(z) - x).square().mean().sqrt())
    told = json.loads((world / "encoder/metrics.json").read_text())["val/reconstruction"]
    assert error == pytest.approx(told, rel=1e-3)


def test_mirrored_samples_are_encoded_too_and_drawn_half_of_the_time(world: Path) -> None:
    data = latents(world, flip=True)
    rows = torch.arange(400)
    z, _ = data.train.batch(rows)
    x, _ = data.of.train.batch(rows)
    drawn, _ = data.train.drawn(rows, torch.Generator().manual_seed(0))  # pyright: ignore
    kept = (drawn == z).flatten(1).all(1)
    assert 150 < int(kept.sum()) < 250
    net, _, _ = load_net(world / "encoder/checkpoints/last.ckpt")
    assert data.decoder
    wide = (slice(None), None, None)
    mirrored = net.encode(x.flip(-1))[0] - data.decoder.mean[wide]
    torch.testing.assert_close(
        drawn[~kept], (mirrored / data.decoder.std[wide])[~kept], atol=1e-4, rtol=1e-4
    )


def test_conditions_of_the_data_go_through(world: Path) -> None:
    data = latents(world, conditions=["class", "text"])
    assert data.layout.shape == data.shape
    assert data.layout.parts == data.of.layout.parts
    rows = data.examples(5)
    assert rows is not None
    torch.testing.assert_close(rows, data.of.examples(5), equal_nan=True)
    with pytest.raises(ConfigError, match="mask is a picture as large as a sample"):
        _ = latents(world, conditions=["mask"]).layout


def test_samples_are_decoded_by_every_way_of_drawing_them(world: Path) -> None:
    """Also where the run was moved, and its autoencoder is gone."""
    moved = world / "moved"
    shutil.copytree(world / "run", moved)
    (world / "encoder").rename(world / "hidden")
    try:
        small = ("num_samples=5", "solver.num_steps=4", "seed=3", "backend=eager")
        does(world, job("sample", "run=moved", *small, "out=moved_samples"))
        model = ddiff.load(moved)
        by_python = model.sample(5, num_steps=4, seed=3, batch_size=2)
    finally:
        (world / "hidden").rename(world / "encoder")
    drawn = np.load(world / "moved_samples.npy")
    assert drawn.shape == (5, 1, 8, 8) == (5, *model.shape)
    assert drawn.min() >= -1
    assert drawn.max() <= 1
    assert drawn.std() > 0.05
    np.testing.assert_allclose(by_python, drawn, atol=1e-4)
    shown = np.load(world / "run/samples/step_000012.npy")
    assert shown.shape == (4, 1, 8, 8)
    assert np.abs(shown).max() <= 1


def test_the_samples_are_what_the_decoder_makes_of_the_solution(world: Path) -> None:
    trained = Trained.load(str(world / "run"), accelerator="cpu")
    assert trained.decoder
    assert tuple(trained.options.net.shape) == (2, 4, 4)
    plan = ddim(trained.schedule, 4)
    parts = (plan, ClassifierFree(), Precision("float32"), Eager(), 3)
    z = generation_by(replace(trained, decoder=None), *parts, trained.decoder.bound).batch(range(5))
    x = generation_by(trained, *parts, 1.0).batch(range(5))
    assert z.abs().max() > 1  # unit variance does not fit into [-1, 1]
    torch.testing.assert_close(x, trained.decoder(z))
    assert trained.decoder.bound > 2


def test_what_is_given_is_changed_in_latents(world: Path) -> None:
    """With hardly any noise a sample is what the autoencoder makes of the held-out one."""
    small = ("num_samples=4", "backend=eager", "picture=false", "solver=ddim")
    given = ("from_image=held_out", "solver.num_steps=50")
    little, much = (
        job("sample", "run=run", *small, *given, f"strength={s}", f"out=s{s}") for s in (0.02, 0.9)
    )
    kept = job("sample", "run=run", *small, *given, "inpaint=half", "out=none")
    done = ddiff_many([little, much, kept], world)
    assert [one.status for one in done] == [0, 0, 2]
    assert "no part of a picture can be kept; strength= alone goes" in done[2].err
    model, of = ddiff.load(world / "run"), latents(world).of
    assert isinstance(model._trained.decoder, Decoder)
    x = of.val.batch(torch.arange(4))[0]
    again = model._trained.decoder(model._trained.decoder.encoded(x)).numpy()
    near, far = (np.abs(np.load(world / f"s{s}.npy") - again).mean() for s in (0.02, 0.9))
    assert near < 0.05 < far
    by_python = model.sample(
        4, solver="ddim", num_steps=50, from_image=x.numpy(), strength=0.02, batch_size=2
    )
    np.testing.assert_allclose(by_python, np.load(world / "s0.02.npy"), atol=1e-4)
    with pytest.raises(ConfigError, match="upscale: this net draws latents"):
        model.sample(1, from_image=x[:, :, ::2, ::2].numpy(), upscale=2)
    file: Any = SimpleNamespace(decoder=DecoderFile(lambda z: z, (1, 8, 8), 1.0, None))
    with pytest.raises(ConfigError, match="exported files have no encoder"):
        refuse_in_latents(file, {"strength": 0.5})


def test_evaluation_and_writing_see_samples_as_the_data_are(world: Path) -> None:
    options = ("run=run", "num_samples=24", "solver.num_steps=2", "metrics=[memorisation]")
    does(world, job("evaluate", *options, "cache=null", "out=figures.json"))
    found = json.loads((world / "figures.json").read_text())
    figures = {figure["name"]: figure for figure in found["figures"]}
    drawn = np.load(next((world / "run/samples").glob("*_24.npy")))
    x, _ = everything(latents(world).of)
    distances = torch.cdist(torch.from_numpy(drawn).flatten(1), x.flatten(1))
    nearest = float(distances.min(1).values.mean()) / 8
    assert figures["nearest_train"]["value"] == pytest.approx(nearest, rel=1e-4)
    assert figures["nearest_train"]["protocol"]["train"] == "1621 of digits train (1621)"
    found = json.loads((world / "run/evaluations/step_000012.json").read_text())
    (near,) = (f for f in found["figures"] if f["name"] == "nearest_train")
    assert near["protocol"]["train"] == "1621 of digits train (1621)"
    assert 0.1 < near["value"] < 2  # in the units of the data


@pytest.mark.slow
def test_volumes_come_back_as_their_files_were(tmp_path: Path) -> None:
    """Files of 14^3 bytes, padded to 16^3, in latents of 4^3."""
    (tmp_path / "files").mkdir()
    for number in range(6):
        volume = np.zeros((14, 14, 14), np.uint8)
        volume[2 + number : 8 + number, 4:10, 3:11] = 200
        np.save(tmp_path / f"files/{number}.npy", volume)
    files = ("data.root=files", "data.size=16", "data.fit=pad", "data.val_fraction=0.2")
    small = ("budget.batch_size=2", "trainer=smoke", "sampling.num_samples=2", *SMALL)
    volumes = ("experiment=voxel_autoencoder", "data=voxels", *files, "net.channels=[8]")
    does(
        tmp_path,
        job("train", *volumes, *small, "run_dir=encoder"),
        job("train", "data=latent", "data.run=encoder", *small, "net.channels=[8]", "net.groups=8",
            "net.mid_attention=false", "solver.num_steps=2", "run_dir=run"),
        job("sample", "run=run", "num_samples=2", "solver.num_steps=2", "write=npy", "out=x"),
    )  # fmt: skip
    assert np.load(tmp_path / "encoder/samples/step_000004.npy").shape == (2, 1, 16, 16, 16)
    assert OmegaConf.load(tmp_path / "run/config.yaml").net.shape == [4, 4, 4, 4]
    x, written = np.load(tmp_path / "x.npy"), np.load(tmp_path / "x_0001.npy")
    assert x.shape == (2, 1, 16, 16, 16)
    assert written.shape == (14, 14, 14)
    inside = (x[1, 0, 1:15, 1:15, 1:15] + 1) * 127.5
    np.testing.assert_allclose(written, inside, atol=1e-3)


@pytest.mark.slow
def test_a_kill_changes_nothing_and_changed_weights_are_refused(world: Path) -> None:
    options = (*LATENT, "budget.max_steps=12", "budget.save_every=3")
    does(world, job("train", *options, "run_dir=whole"))
    killed = job("train", *options, "run_dir=killed", kill_at=7)
    assert ddiff_many([killed], world)[0].status == -9
    shutil.copytree(world / "killed", world / "other")
    (world / "encoder").rename(world / "there")
    try:
        (done,) = ddiff_many([job("train", "ckpt_path=killed")], world)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "data.run: there is no run encoder" in done.err
        does(world, job("train", "ckpt_path=killed", "data=latent", "data.run=there"))
    finally:
        (world / "there").rename(world / "encoder")
    a, b = checkpoint(world / "whole"), checkpoint(world / "killed")
    for part in ("state_dict", "optimizer_states", "batches_seen", "global_step"):
        assert differences(a[part], b[part], part) == []
    assert differences(a["ddiff"]["data"], b["ddiff"]["data"]) == []  # the decoder
    assert scalars(world / "killed", "val/loss") == scalars(world / "whole", "val/loss")
    file = world / "encoder/checkpoints/last.ckpt"
    kept = file.read_bytes()
    changed = load_checkpoint(file)
    changed["state_dict"]["ema.decoder.0.bias"] += 1
    try:
        save_checkpoint(changed, file)
        (done,) = ddiff_many([job("train", "ckpt_path=other")], world)
    finally:
        file.write_bytes(kept)
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert "has other weights than when this training began" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx", "torchscript"])
def test_programs_are_exported_with_a_decoder_beside_them(kind: str, world: Path) -> None:
    name = {"torchscript": "ts"}.get(kind, kind)
    does(world, job("export", "run=run", f"format={kind}", f"out={kind}/model.{name}"))
    assert {p.name for p in (world / kind).iterdir()} == {f"model.{name}", f"model_decoder.{name}"}
    small = ("num_samples=3", "solver.num_steps=3", "picture=false", "batch_size=2")
    does(
        world,
        job("sample", f"run={kind}/model.{name}", *small, f"out={kind}/from_file"),
        job("sample", "run=run", *small, "backend=eager", f"out={kind}/from_run"),
    )
    by_file, by_run = (np.load(world / f"{kind}/from_{n}.npy") for n in ("file", "run"))
    assert by_file.shape == (3, 1, 8, 8)
    np.testing.assert_allclose(by_file, by_run, atol=1e-4)
    (world / kind / f"model_decoder.{name}").rename(world / kind / "gone")
    (done,) = ddiff_many([job("sample", f"run={kind}/model.{name}", "out=x")], world)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert f"their decoder {kind}/model_decoder.{name} is not there" in done.err


def test_a_decoder_s_file_of_a_fixed_batch_takes_any_number_of_samples() -> None:
    seen = []

    def run(z: torch.Tensor) -> torch.Tensor:
        seen.append(len(z))
        return 2 * z

    z = torch.arange(5.0)[:, None]
    assert torch.equal(DecoderFile(run, (1,), 1.0, 4)(z), 2 * z)
    assert seen == [4, 4]
    assert torch.equal(DecoderFile(run, (1,), 1.0, None)(z), 2 * z)
    assert seen == [4, 4, 5]


def test_weights_are_exported_with_their_decoder(world: Path) -> None:
    does(world, job("export", "run=run", "format=safetensors", "out=model.safetensors"))
    small = ("num_samples=3", "solver.num_steps=3", "backend=eager", "picture=false")
    does(
        world,
        job("sample", "run=model.safetensors", *small, "out=from_file"),
        job("sample", "run=run", *small, "out=from_run"),
    )
    by_file, by_run = np.load(world / "from_file.npy"), np.load(world / "from_run.npy")
    assert by_file.shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(by_file, by_run)
    jobs = [job("export", "run=run", f"format={name}") for name in ("tensorrt", "diffusers")]
    for done in ddiff_many(jobs, world):
        assert done.status == 2
        assert done.err.count("\n") == 1
        assert "format=safetensors" in done.err


def test_a_damaged_decoder_is_refused(world: Path, tmp_path: Path) -> None:
    for name, damage in {
        "std": lambda d: d["state"].update(std=torch.zeros(2)),
        "names": lambda d: d["state"].pop("mean"),
        "net": lambda d: d["net"].update(channels=[8, 8]),
        "target": lambda d: d["net"].update(_target_="os.system"),
        "bound": lambda d: d.update(bound=float("inf")),
        "nothing": lambda d: d.clear(),
        "no options": lambda d: d.update(net=["a", "b"]),
        "no tensors": lambda d: d.update(state=3),
        "another net": lambda d: d["net"].update(_target_="ddiff.nets.Simple2d", channels=8),
    }.items():
        file = tmp_path / f"{name}.ckpt"
        broken = torch.load(world / "run/checkpoints/last.ckpt", weights_only=True)
        damage(broken["ddiff"]["data"]["decoder"])
        save_checkpoint(broken, file)
        with pytest.raises(DdiffError, match=r"the decoder in .* is damaged"):
            Trained.load(str(file))


def test_mistakes_get_one_line(world: Path) -> None:
    words = {
        "data.run=nowhere": ["data.run", "no run nowhere", "experiment=autoencoder"],
        "data.run=run data@data.of=digits": ["data.run", "run is no autoencoder"],
        "data@data.of=digits data.of.size=16": ["data.run", "1x8x8", "1x16x16"],
        "data.flip=true": ["data.flip", "data.of.flip="],
        "data.conditions=[text]": ["data.conditions", "data.of.conditions="],
        "net.bounded=true objective=x0": ["net.bounded", "latents"],
        "module=voxel_ddpm": ["voxel"],
        "data.of.size=16": ["data.of.size"],
        "data.run=run": ["data.of"],
    }
    (done,) = ddiff_many([job("data", "data=latent", "data.run=encoder", "out=y")], world)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "data.of" in done.err
    jobs = [job("train", *LATENT, *said.split()) for said in words]
    for (said, wanted), done in zip(words.items(), ddiff_many(jobs, world), strict=True):
        assert done.status == 2, (said, done.err)
        assert done.err.count("\n") == 1, (said, done.err)
        for word in wanted:
            assert word.lower() in done.err.lower(), (said, done.err)


@pytest.mark.slow
def test_data_latent_alone_takes_parts_that_suit_the_latents(world: Path) -> None:
    small = ("debug=smoke", "sampling.num_samples=2", "solver.num_steps=2", "budget.batch_size=2")
    own, other = does(
        world,
        job("train", "data=latent", "data.run=encoder", *small, "run_dir=a"),
        job("train", "data=latent", "data.run=encoder", "data@data.of=digits",
            "data.of.conditions=[text]", *small, "run_dir=b"),
    )  # fmt: skip
    words = "data=latent without experiment=: experiment=latents module=conditional_ddpm"
    assert words in own.out
    assert words in other.out
    a, b = (OmegaConf.load(world / f"{name}/config.yaml") for name in "ab")
    assert (a.net.channels, a.net.shape, a.net.num_classes) == ([32, 64], [2, 4, 4], 10)
    assert (b.net.num_classes, list(b.net.conditions)) == (None, ["length", "examples"])


def test_the_run_names_its_data(world: Path) -> None:
    """So that it says what it was trained on, whatever becomes of the autoencoder's run."""
    node = OmegaConf.load(world / "run/config.yaml").data
    assert node["of"]["_target_"] == "ddiff.data.Digits"
    assert build(node["of"]).shape == (1, 8, 8)

"""Volumes and pictures of unequal sides: trained, resumed, sampled, measured and exported."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from ddiff.config.resolvers import fit, nearest_sides
from ddiff.config.trees import flat, identity
from ddiff.data import Images, Voxels
from ddiff.data.volume_files import read_numbers, volume_header
from ddiff.data.writing import write
from ddiff.system.errors import ConfigError, DdiffError
from tests.support.runs import checkpoint, ddiff_many, job

SMOKE = ("debug=smoke", "precision=fp32", "solver.num_steps=2", "net.channels=[8,16]",
         "net.num_blocks=1", "net.mid_attention=false")  # fmt: skip
RUNS = {
    "scans": ((1, 8, 12, 16), ("data=voxels", "data.root=scans", "data.size=[8,12,16]")),
    "flows": ((2, 4, 8, 4), ("data=voxels", "data.root=flows", "data.size=[4,8,4]",
                             "data.channels=2")),
    "ct": ((1, 8, 8, 8), ("data=voxels", "data.root=ct", "data.size=8", "data.fit=pad",
                          "data.window=[-1000,400]")),
    "photos": ((3, 8, 12), ("data=images", "data.root=photos", "data.size=[8,12]")),
}  # fmt: skip
# left, superior, anterior, with 1.5, 3 and 2 mm between voxels
TURNED = np.array([[-1.5, 0, 0, 40], [0, 0, 2, -5], [0, 3, 0, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind, and runs that trained four steps on it and two more."""
    root, random = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for name, (shape, _) in RUNS.items():
        (root / name).mkdir()
        for i in range(8):
            if name == "ct":
                volume = random.integers(-1100, 500, (6, 5, 7), np.int16)
                nibabel.save(nibabel.Nifti1Image(volume, TURNED), root / name / f"{i}.nii.gz")
            elif name == "photos":
                pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(root / name / f"{i}.png")
            else:
                volume = random.integers(0, 2, shape, np.uint8)
                np.save(root / name / f"{i}.npy", volume[0] if shape[0] == 1 else volume)
    jobs = [job("train", *options, *SMOKE, f"run_dir={name}_run")
            for name, (_, options) in RUNS.items()]  # fmt: skip
    for name in ("scans_run", "photos_run"):
        jobs += [
            job("train", f"ckpt_path={name}", "budget.max_steps=6"),
            job("sample", f"run={name}", "num_samples=3", f"out={name}/drawn"),
            job("evaluate", f"run={name}", "num_samples=3", f"out={name}/figures.json"),
            job("export", f"run={name}", f"out={name}/model.pt2"),
        ]
    jobs += [
        job("sample", "run=scans_run/model.pt2", "num_samples=3", "out=again", "mesh=stl"),
        job("sample", "run=ct_run", "num_samples=2", "out=ct_drawn", "write=nii.gz"),
        job("export", "run=ct_run", "format=safetensors", "out=ct.safetensors"),
        job("sample", "run=ct.safetensors", "num_samples=2", "out=ct_again", "write=nrrd"),
    ]
    for done in ddiff_many(jobs, root):
        assert (done.status, done.err) == (0, "")
    return root


@pytest.mark.slow
def test_every_verb_takes_the_shape(world: Path) -> None:
    for name, steps in {"scans": 6, "photos": 6, "flows": 4, "ct": 4}.items():
        content = checkpoint(world / f"{name}_run")
        assert content["global_step"] == steps
        assert content["ddiff"]["config"]["net"]["shape"] == list(RUNS[name][0])
    for name in ("scans", "photos"):
        run = world / f"{name}_run"
        assert np.load(run / "drawn.npy").shape == (3, *RUNS[name][0])
        assert json.loads((run / "figures.json").read_text())["figures"]
    drawn, exported = np.load(world / "scans_run/drawn.npy"), np.load(world / "again.npy")
    assert np.abs(drawn - exported).max() < 0.01 * drawn.std()
    assert np.load(world / "flows_run/samples/step_000004.npy").shape == (4, 2, 4, 8, 4)
    assert (world / "again_0002.stl").is_file()


@pytest.mark.slow
def test_samples_are_like_the_files_that_were_trained_on(world: Path) -> None:
    """Padding, window and orientation are undone, also for a net in an exported file."""
    file = nibabel.as_closest_canonical(nibabel.load(world / "ct/0.nii.gz"))
    drawn = np.load(world / "ct_drawn.npy")
    assert drawn.shape == (2, 1, 8, 8, 8)
    for number in range(2):
        made = nibabel.load(world / f"ct_drawn_{number:04d}.nii.gz")
        assert made.shape == file.shape == (6, 7, 5)
        assert np.allclose(made.affine, file.affine)
        assert made.header.get_zooms() == file.header.get_zooms() == (1.5, 2, 3)
        expected = (drawn[number, 0, 1:7, 0:7, 1:6] + 1) * 700 - 1000
        assert np.abs(made.get_fdata() - expected).max() < 1e-3
        path = world / f"ct_again_{number:04d}.nrrd"
        assert np.abs(read_numbers(path, (6, 7, 5)) - expected).max() < 0.1
        assert np.allclose(volume_header(path, (6, 7, 5)).affine, file.affine)
    record = json.loads((world / "ct_drawn.json").read_text())["files"]
    assert (record["format"], record["values"]) == ("nii.gz", [-1000, 400])
    assert record["cut_to"] == [6, 7, 5]


def test_pictures_are_cut_to_the_proportions(tmp_path: Path) -> None:
    """The middle 20 x 30 of 20 x 40 pixels become 10 x 15."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 2:38] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
    data = Images(2, 0, str(tmp_path), [10, 15], val_fraction=0.0)
    data.setup("fit")
    found = {f.name: s.batch(torch.tensor([i]))[0][0] for s in (data.train, data.val)
             for i, f in enumerate(s.files)}  # fmt: skip
    assert found["wide.png"].shape == (3, 10, 15)
    assert (found["wide.png"] == 1).all()
    # of 40 x 20 the middle 13.3 x 20 stay, all of it inside the white
    assert (found["high.png"] == 1).all()
    data = Images(2, 0, str(tmp_path), [15, 10], val_fraction=0.0)
    data.setup("fit")
    x, _ = data.train.batch(torch.arange(1))
    assert x.shape == (1, 3, 15, 10)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for name, shape in {"one": (6, 5, 4), "two": (2, 6, 5, 4)}.items():
        (tmp_path / name).mkdir()
        for i in range(3):
            volume = np.random.default_rng(i).random(shape)
            np.save(tmp_path / name / f"{i}.npy", volume)
        data = Voxels(2, 0, str(tmp_path / name), [6, 5, 4], channels=len(shape) - 2 or 1)
        write(data, tmp_path / f"{name}_again")
        words = json.loads((tmp_path / f"{name}_again/dataset.json").read_text())["read_with"]
        assert "data.size=[6,5,4]" in words
        again = Voxels(2, 0, str(tmp_path / f"{name}_again"), [6, 5, 4], channels=data.shape[0])
        again.setup("fit")
        both = [torch.cat([source.batch(torch.arange(len(source)))[0] for source in sources])
                for sources in ([data.train], [again.train, again.val])]  # fmt: skip
        assert sorted(both[0].sum((1, 2, 3, 4)).tolist()) == pytest.approx(
            sorted(both[1].sum((1, 2, 3, 4)).tolist()), abs=1e-4
        )


def test_nets_follow_the_number_of_pixels() -> None:
    assert fit((48, 56, 40)) == fit((48, 48, 48))
    assert fit((96, 64)).channels == [64, 96, 128]
    assert fit((8, 12)).channels == [32, 64]
    assert fit((50, 48, 48)) is None
    assert nearest_sides((50, 48, 41)) == [[48, 48, 40], [52, 48, 44]]


@pytest.mark.parametrize(
    ("size", "words"),
    [([6, 6], r"size is \[6, 6\]"), ([6, 6, 0], r"\[depth, height, width\]"), (0, "from 1")],
)
def test_sides_that_are_none_are_refused(size: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        Voxels(2, 0, str(tmp_path), size)


def test_a_volume_of_other_channels_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4, 4)))
    with pytest.raises(DdiffError, match=r"a.npy has shape \(2, 4, 4, 4\), but .*\(4, 4, 4\)"):
        Voxels(2, 0, str(tmp_path), 4).setup("fit")
    data = Voxels(2, 0, str(tmp_path), 4, channels=2)
    assert data.shape == (2, 4, 4, 4)


def test_data_of_older_versions_are_the_same_data() -> None:
    """Options that came later do not make data others, where they say what was."""
    old = {"_target_": "ddiff.data.CIFAR10", "root": "x"}
    assert known(old) == known({**old, "size": 32, "channels": 3})
    assert known(old) != known({**old, "size": 32, "channels": 1})
    old = {"_target_": "ddiff.data.Voxels", "root": "x", "size": 8}
    new = {"channels": 1, "fit": "exact", "window": None, "percentiles": None, "spacing": None}
    assert known(old) == known({**old, **new})
    assert known(old) != known({**old, **new, "window": [0, 1]})
    pictures = {"_target_": "ddiff.data.Images", "root": "x"}
    assert known({**pictures, "channels": 1}) != known({**pictures, "channels": 3})


def known(data: dict[str, object]) -> dict[str, object]:
    return identity(flat({"data": data}))

"""Tests of conditions in data: numbers, texts and masks, by options and by tables."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ddiff.data import Digits, Images, Shapes, Spheres
from ddiff.nets.conditions import decode_text
from ddiff.system.errors import ConfigError, DdiffError


def spheres(**options):
    return Spheres(**({"batch_size": 4, "seed": 0, "size": 8, "num": 50, "num_val": 20} | options))


def batch(data):
    x, y = data.train_dataloader().dataset[3]
    return x, y, data.layout


def test_without_conditions_y_is_a_label_as_before():
    data = Digits(batch_size=4, seed=0)
    data.setup("fit")
    assert data.layout.options() is None
    _, y, layout = batch(data)
    assert (y.dtype, y.shape, layout.num_classes) == (torch.int64, (4,), 10)


def test_spheres_tell_their_radius_centre_and_mask():
    names = ["radius", "centre_z", "centre_y", "centre_x", "mask"]
    data = spheres(conditions=names, flip=True)
    data.setup("fit")
    x, y, layout = batch(data)
    assert list(layout.parts) == names
    rows = data.train_dataloader().dataset.indices(3)
    assert torch.equal(layout.part(y, "radius")[:, 0], data.train.radius[rows] / 8)
    assert torch.equal(layout.part(y, "mask"), x)  # after the mirror
    law, radii = layout.numbers["radius"], data.train.radius.double() / 8
    assert law.mean == pytest.approx(radii.mean().item(), abs=1e-6)
    assert law.std == pytest.approx(radii.std(correction=0).item(), abs=1e-6)
    assert (law.low, law.high) == (radii.min().item(), radii.max().item())


def test_what_is_measured_in_a_sphere_is_what_was_told():
    data = spheres(size=24, conditions=["radius", "centre_x"], radius_max=0.4)
    data.setup("fit")
    x, _ = data.train.batch(torch.arange(50))
    for name, most in (("radius", 0.006), ("centre_x", 0.006)):  # parts of 24 voxels
        told = data.told(name, data.train)
        assert (data.measured(name, x) - told).abs().max() < most


def test_coarse_is_the_mean_of_blocks_in_place():
    data = spheres(conditions=["coarse"])
    x, y, layout = (data.setup("fit"), *batch(data))[1:]
    found = layout.part(y, "coarse")
    blocks = x.view(4, 1, 2, 4, 2, 4, 2, 4).mean((3, 5, 7))
    assert torch.equal(found[..., ::4, ::4, ::4], blocks)
    assert torch.equal(found[..., 3, 3, 3], found[..., 0, 0, 0])


def test_captions_of_digits_name_the_digit():
    data = Digits(batch_size=64, seed=0, conditions=["text", "class"])
    data.setup("fit")
    _, y, layout = batch(data)
    texts = [decode_text(codes) for codes in layout.part(y, "text")]
    assert [data.class_in(text) for text in texts] == layout.classes(y).tolist()
    assert len(set(texts)) > 20
    assert data.class_in("a three and a 5") is None
    assert list(layout.examples) == ["text", "class"]


def test_captions_of_shapes_name_kind_and_size():
    data = Shapes(batch_size=4, seed=0, size=16, num=60, conditions=["text"])
    data.setup("fit")
    texts = data.told("text", data.train)
    assert [data.class_in(text) for text in texts] == data.train.label.tolist()
    large = ["large" in text for text in texts]
    radius = data.train.ball[:, 3]
    assert radius[torch.tensor(large)].min() > radius[~torch.tensor(large)].max()
    assert any("joined with" in text for text in texts)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    table = ["file,porosity,age,caption"]
    for i in range(8):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(
            tmp_path / f"photos/{i}.png"
        )
        mask = np.zeros((8, 8), np.uint8)
        mask[:, :i] = 255
        Image.fromarray(mask).save(tmp_path / f"masks/{i}.png")
        table.append(f"{i},{i / 10},{'' if i == 2 else 20 + i},a picture number {i}")
    (tmp_path / "photos/labels.csv").write_text("\n".join(table))
    vectors = {f"{i}.png" if i % 2 else str(i): np.array([i, 1.0, -i]) for i in range(8)}
    np.savez(tmp_path / "vectors.npz", **vectors)
    np.savez(tmp_path / "few.npz", **{"0.png": np.ones(3)})
    np.savez(tmp_path / "uneven.npz", **vectors | {"4": np.ones(2)})
    np.savez(tmp_path / "nan.npz", **vectors | {"4": np.full(3, np.nan)})
    np.savez(tmp_path / "zero.npz", **dict.fromkeys(vectors, np.zeros(3)))
    np.save(tmp_path / "one.npy", np.ones((8, 3)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "vectors.npz").read_bytes()[:300])
    return tmp_path


def images(root, **options):
    own = {"batch_size": 4, "seed": 0, "root": str(root / "photos"), "size": 8}
    return Images(**(own | options))


def test_a_table_and_a_folder_of_masks_tell_of_files(folder):
    data = images(folder, numbers="labels.csv:porosity+age", text="labels.csv:caption",
                  vectors=str(folder / "vectors.npz"), masks=str(folder / "masks"),
                  flip=True)  # fmt: skip
    data.setup("fit")
    assert list(data.layout.parts) == ["porosity", "age", "text", "vector", "mask"]
    files = [int(file.stem) for file in data.train.files]
    loader = data.train_dataloader().dataset
    for n in range(4):
        x, y = loader[n]
        rows = loader.indices(n)
        plain, _ = data.train.batch(rows)
        mirrored = (x != plain).flatten(1).any(1).tolist()
        for row, index in enumerate(rows.tolist()):
            i = files[index]
            told = y[row : row + 1]
            assert data.layout.part(told, "porosity").item() == pytest.approx(i / 10)
            age = data.layout.part(told, "age").item()
            assert math.isnan(age) if i == 2 else age == 20 + i
            assert decode_text(data.layout.part(told, "text")[0]) == f"a picture number {i}"
            assert data.layout.part(told, "vector").tolist() == [[i, 1, -i]]
            mask = torch.full((8, 8), -1.0)
            mask[:, :i] = 1
            mask = mask.flip(-1) if mirrored[row] else mask
            assert torch.equal(data.layout.part(told, "mask")[0, 0], mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": "labels.csv"}, "which columns"),
        ({"numbers": "labels.csv:weight"}, "has no column weight; it has file, porosity"),
        ({"numbers": "labels.csv:caption"}, "has no number as caption of 0.png"),
        ({"text": "none.csv:caption"}, "there is no file none.csv"),
        ({"text": "labels.csv:age"}, "has no age for 1 of 8 files, such as 2.png"),
        ({"vectors": "few.npz"}, "few.npz has no array for 7 of 8 files, such as 1.png"),
        ({"vectors": "uneven.npz"}, r"has \[2\] for 4.png and \[3\] for 0.png; all must be of one"),
        ({"vectors": "nan.npz"}, "has values that are not finite for 4.png"),
        ({"vectors": "zero.npz"}, "every entry is 0, which tells nothing"),
        ({"vectors": "one.npy"}, "cannot read the vectors .*: it is one array, and no .npz"),
        ({"vectors": "cut.npz"}, "cannot read the vectors .*cut.npz"),
        ({"vectors": "none.npz"}, "there is no file none.npz"),
        ({"masks": "none"}, "the data folder none does not exist"),
        ({"conditions": ["radius"]}, "these data tell no 'radius'; choose from mask, coarse"),
        ({"conditions": ["mask", "mask"]}, "says one twice"),
        ({"conditions": ["coarse"], "size": 6}, "do not divide"),
    ],
)
def test_what_is_wrong_is_one_line(folder, options, message, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises((ConfigError, DdiffError), match=message) as caught:
        _ = images(folder, **options).layout
    assert "\n" not in str(caught.value)


def test_a_number_that_never_changes_is_refused():
    data = spheres(conditions=["radius"], radius_min=0.25, radius_max=0.25)
    with pytest.raises(ConfigError, match=r"radius is 0\.25 for every sample, and tells nothing"):
        _ = data.layout

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import ddiff.data
from ddiff.data import Digits, Images, Shapes, Spheres, Voxels
from ddiff.data.writing import write
from ddiff.system.errors import ConfigError, DdiffError


def read_back(data):
    data.setup("fit")
    found = {}
    for source in (data.train, data.val):
        x, y = source.batch(torch.arange(len(source)))
        for i, file in enumerate(source.files):
            found[int(file.stem.removeprefix("vox_"))] = (x[i], None if y is None else int(y[i]))
    return found


def test_spheres_come_back_bit_for_bit(tmp_path):
    data = Spheres(batch_size=4, seed=0, size=16, num=10, centre="random")
    assert write(data, tmp_path / "out") == 10
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["dataset.json", *(f"vox_{i:04d}.npy" for i in range(10))]
    volume = np.load(tmp_path / "out" / "vox_0003.npy")
    assert (volume.shape, volume.dtype) == ((16, 16, 16), np.uint8)
    assert set(np.unique(volume)) == {0, 1}
    found = read_back(Voxels(4, 0, str(tmp_path / "out"), 16))
    expected, _ = data.train.batch(torch.arange(10))
    assert torch.equal(torch.stack([found[i][0] for i in range(10)]), expected)
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (facts["data"], facts["num"], facts["shape"]) == ("Spheres", 10, [1, 16, 16, 16])


def test_labels_come_back_in_their_own_order(tmp_path):
    data = Shapes(batch_size=4, seed=0, size=16, num=12, num_val=8)
    write(data, tmp_path, num=7, split="val")
    assert (tmp_path / "torus" / "vox_0003.npy").exists()
    again = Voxels(4, 0, str(tmp_path), 16)
    assert again.class_names == data.class_names  # not alphabetical: from dataset.json
    x, y = data.val.batch(torch.arange(7))
    found = read_back(again)
    assert [found[i][1] for i in range(7)] == y.tolist()
    assert all(torch.equal(found[i][0], x[i]) for i in range(7))


def test_digits_come_back_within_half_a_grey_level(tmp_path):
    data = Digits(batch_size=16, seed=0, size=16)
    write(data, tmp_path, num=40)
    x, y = data.train.batch(torch.arange(40))
    found = read_back(Images(16, 0, str(tmp_path), 16, channels=1))
    assert [found[i][1] for i in range(40)] == y.tolist()
    assert max(float((found[i][0] - x[i]).abs().max()) for i in range(40)) <= 0.5 / 127.5 + 1e-6


class Grey:
    """Volumes that are not binary."""

    def __len__(self):
        return 2

    def batch(self, indices):
        return torch.linspace(-1, 1, 64).view(1, 1, 4, 4, 4).repeat(len(indices), 1, 1, 1, 1), None


def test_grey_volumes_are_floats_from_0_to_1(tmp_path):
    data = Spheres(batch_size=4, seed=0, size=4)
    data.train, data.val = Grey(), Grey()
    write(data, tmp_path)
    volume = np.load(tmp_path / "vox_0001.npy")
    assert volume.dtype == np.float32
    assert np.abs(volume - np.linspace(0, 1, 64).reshape(4, 4, 4)).max() < 1e-6
    x, _ = read_back(Voxels(4, 0, str(tmp_path), 4))[1]
    assert torch.allclose(x, Grey().batch(torch.arange(1))[0][0], atol=1e-6)


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path):
    data = Spheres(batch_size=4, seed=0, size=8, num=5)
    with pytest.raises(ConfigError, match="num is 6, but train holds 5"):
        write(data, tmp_path / "a", num=6)
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        write(data, tmp_path / "a", split="trian")
    with pytest.raises(ConfigError, match="num is 'x', not an integer"):
        write(data, tmp_path / "a", num="x")
    assert not (tmp_path / "a").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(DdiffError, match="full is not an empty folder"):
        write(data, tmp_path / "full")


def test_names_load_lazily_and_are_all_there():
    for name in ddiff.data.__all__:
        assert getattr(ddiff.data, name).__name__ == name
    with pytest.raises(AttributeError, match="Sphere"):
        ddiff.data.Sphere  # noqa: B018
    code = "import sys, ddiff.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

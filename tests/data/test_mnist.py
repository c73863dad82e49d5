import gzip
import struct

import numpy as np
import pytest
import torch

from ddiff.data import MNIST, FashionMNIST
from ddiff.data.mnist import read_idx
from ddiff.system.errors import ConfigError, DdiffError

TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(array):
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape)
    return head + array.tobytes()


def files(folder, zipped=True, train=12, test=5):
    folder.mkdir(parents=True, exist_ok=True)
    random, made = np.random.default_rng(0), {}
    for x, y, n in ((TRAIN_X, TRAIN_Y, train), (TEST_X, TEST_Y, test)):
        made[x] = random.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        made[y] = random.integers(0, 10, n, dtype=np.uint8)
    for name, array in made.items():
        raw = idx(array)
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(raw) if zipped else raw)
    return made


def ready(cls, root, **options):
    data = cls(batch_size=4, seed=0, root=str(root), download=False, **options)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", [".", "raw", "MNIST/raw"])
def test_mnist_is_read_as_written(tmp_path, zipped, where):
    made = files(tmp_path / where, zipped)
    data = ready(MNIST, tmp_path)
    assert data.shape == (1, 28, 28)
    for source, images, labels in ((data.train, TRAIN_X, TRAIN_Y), (data.val, TEST_X, TEST_Y)):
        x, y = source.batch(torch.arange(len(source)))
        assert y.tolist() == made[labels].tolist()
        assert y.dtype == torch.int64
        expected = torch.from_numpy(made[images]).double() / 127.5 - 1
        assert (x[:, 0] - expected).abs().max() < 1e-6
        assert x[:, 0][expected == 1].unique().tolist() == [1.0]


def test_size_32_adds_two_pixels_of_background(tmp_path):
    files(tmp_path / "FashionMNIST/raw")
    x, _ = ready(FashionMNIST, tmp_path, size=32).train.batch(torch.arange(12))
    y, _ = ready(FashionMNIST, tmp_path).train.batch(torch.arange(12))
    assert torch.equal(x[:, :, 2:-2, 2:-2], y)
    assert x[:, :, :2].unique().tolist() == [-1.0]
    assert x[..., -2:].unique().tolist() == [-1.0]
    with pytest.raises(ConfigError, match=r"\[height, width\]"):
        MNIST(batch_size=1, seed=0, root="x", size=[64, 64, 64])
    with pytest.raises(ConfigError, match="channels is 2; choose 1"):
        MNIST(batch_size=1, seed=0, root="x", channels=2)


def test_any_size_and_three_channels(tmp_path):
    files(tmp_path)
    x, _ = ready(MNIST, tmp_path).train.batch(torch.arange(12))
    data = ready(MNIST, tmp_path, size=[14, 7], channels=3)
    small, _ = data.train.batch(torch.arange(12))
    assert data.shape == (3, 14, 7)
    expected = torch.nn.functional.avg_pool2d(x, (2, 4)).expand(-1, 3, -1, -1)
    assert torch.allclose(small, expected, atol=1e-6)
    large, _ = ready(MNIST, tmp_path, size=56).train.batch(torch.arange(12))
    # a bilinear pixel of twice the size lies a quarter of a pixel from the nearest two
    between = 0.75 * x[..., 1:-1, 1:-1] + 0.25 * x[..., 1:-1, 2:]
    above = 0.75 * x[..., :-2, 1:-1] + 0.25 * x[..., :-2, 2:]
    assert torch.allclose(large[..., 2:-2:2, 3:-2:2], 0.75 * between + 0.25 * above, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "damage", "word"),
    [
        (TRAIN_X, lambda raw: raw[:-1], "truncated.*announces 9424"),
        (TRAIN_X, lambda raw: raw + b"x", "damaged"),
        (TRAIN_X, lambda raw: b"\0\0\x0d\x03" + raw[4:], "00000d03"),
        (TRAIN_Y, lambda raw: b"", "nothing"),
        (TRAIN_Y, lambda raw: raw[:8] + b"\x0b" + raw[9:], "label 11"),
        (TRAIN_Y, lambda raw: idx(np.zeros(11, np.uint8)), "12 images.*11 labels"),
        (TRAIN_X, lambda raw: idx(np.zeros((12, 32, 32), np.uint8)), r"\(32, 32\)"),
        (TEST_X, lambda raw: gzip.compress(raw)[:-40], "truncated"),
        (
            TEST_X,
            lambda raw: gzip.compress(raw)[:200] + b"??" + gzip.compress(raw)[202:],
            "damaged",
        ),
    ],
)
def test_damage_is_named_with_its_file(tmp_path, name, damage, word):
    files(tmp_path, zipped=False)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(DdiffError, match=rf"(?s){name}.*{word}|{word}") as caught:
        ready(MNIST, tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_are_listed_with_their_address(tmp_path):
    files(tmp_path)
    (tmp_path / f"{TEST_Y}.gz").unlink()
    (tmp_path / f"{TRAIN_X}.gz").unlink()
    with pytest.raises(DdiffError) as caught:
        ready(MNIST, tmp_path)
    assert str(caught.value) == (
        f"{TRAIN_X}.gz, {TEST_Y}.gz are not in {tmp_path}: get them from "
        "https://ossci-datasets.s3.amazonaws.com/mnist/ and put them there"
    )


def test_idx_of_other_ranks(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    (tmp_path / "f").write_bytes(idx(array))
    assert read_idx(tmp_path / "f", dims=4).tolist() == array.tolist()

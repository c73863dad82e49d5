import io
import tarfile

import numpy as np
import pytest
import torch

from ddiff.data import CIFAR10
from ddiff.system.errors import DdiffError

NAMES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]


def records(n, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, (n, 1), dtype=np.uint8)
    return np.concatenate([labels, random.integers(0, 256, (n, 3072), dtype=np.uint8)], 1)


def tar_of(files, path):
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def ready(root, **options):
    data = CIFAR10(batch_size=4, seed=0, root=str(root), download=False, **options)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("where", [".", "cifar-10-batches-bin"])
def test_planes_are_red_green_blue(tmp_path, where):
    (tmp_path / where).mkdir(exist_ok=True)
    made = [records(3, i) for i in range(6)]
    for name, array in zip(NAMES, made, strict=True):
        (tmp_path / where / name).write_bytes(array.tobytes())
    data = ready(tmp_path)
    assert (len(data.train), len(data.val), data.shape) == (15, 3, (3, 32, 32))
    x, y = data.train.batch(torch.tensor([4]))
    record = made[1][1]
    assert y.item() == record[0]
    for channel, row, column in ((0, 0, 1), (1, 5, 31), (2, 31, 0)):
        byte = record[1 + 1024 * channel + 32 * row + column]
        assert x[0, channel, row, column].item() == pytest.approx(byte / 127.5 - 1, abs=1e-6)
    assert data.class_names[9] == "truck"
    grey = ready(tmp_path, size=16, channels=1)
    assert grey.shape == (1, 16, 16)
    planes = record[1:].reshape(3, 16, 2, 16, 2).mean((2, 4)) / 127.5 - 1
    luminance = np.tensordot([0.299, 0.587, 0.114], planes, 1)
    small = grey.train.batch(torch.tensor([4]))[0][0, 0].numpy()
    assert np.abs(small - luminance).max() < 1e-6
    assert data.flip


def test_the_tar_is_unpacked_and_read(tmp_path):
    tar_of({n: records(2, i).tobytes() for i, n in enumerate(NAMES)}, tmp_path / "t")
    (tmp_path / "t").rename(tmp_path / "cifar-10-binary.tar.gz")
    data = ready(tmp_path)
    assert len(data.train) == 10
    assert sorted(p.name for p in (tmp_path / "cifar-10-batches-bin").iterdir()) == NAMES


def test_damage_is_named(tmp_path):
    with pytest.raises(DdiffError, match=r"cifar-10-binary.tar.gz is not in .*toronto"):
        ready(tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(DdiffError, match=r"cifar-10-binary.tar.gz is truncated or damaged"):
        ready(tmp_path)
    tar_of({n: records(2, i).tobytes() for i, n in enumerate(NAMES)}, tmp_path / "t")
    whole = (tmp_path / "t").read_bytes()
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DdiffError, match="truncated or damaged"):
        ready(tmp_path)
    assert not list(tmp_path.glob("**/*.part"))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(whole)
    data_batch_3 = records(2, 0).tobytes()
    ready(tmp_path)
    broken = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    broken.write_bytes(data_batch_3[:-1])
    with pytest.raises(DdiffError, match=r"data_batch_3.bin is truncated.*6145"):
        ready(tmp_path)
    broken.write_bytes(b"\x0a" + data_batch_3[1:])
    with pytest.raises(DdiffError, match=r"data_batch_3.bin is not CIFAR-10: label 10"):
        ready(tmp_path)

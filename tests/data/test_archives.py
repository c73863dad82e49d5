"""Pictures in tar archives: the same samples as in a folder, in any order; broken ones named."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddiff.system.errors import ConfigError, DdiffError
from tests.data.test_folders import everything, images, pictures
from tests.support.runs import TINY, checkpoint, differences, forked


def pack(archive: Path, files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> None:
    """Write an archive with these members, as tar itself does."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w", format=kind) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_those_of_the_files(kind: int, tmp_path: Path) -> None:
    made = pictures(tmp_path / "loose", [f"{i:03}.png" for i in range(30)])
    files = {name: (tmp_path / "loose" / name).read_bytes() for name in made}
    for part in range(3):  # with a folder inside, and with files that are no pictures
        names = list(made)[part::3]
        members = {f"inside/{name}": files[name] for name in names}
        pack(tmp_path / f"shards/train-{part}.tar", {**members, "inside/notes.json": b"{}"}, kind)
    data = images(tmp_path / "shards")
    assert data.num_classes is None
    assert (len(data.train) + len(data.val), len(made)) == (30, 30)
    expected = {name: torch.from_numpy(x).permute(2, 0, 1) / 127.5 - 1 for name, x in made.items()}
    for name, (x, y) in everything(data).items():
        assert y is None
        torch.testing.assert_close(x, expected[name])
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))
    x, _ = data.train.batch(order)
    for row, index in enumerate(order.tolist()):
        torch.testing.assert_close(x[row], expected[data.train.files[index].name])


def test_classes_stand_beside_pictures_or_in_a_table(tmp_path: Path) -> None:
    files = {}
    for i in range(12):
        files |= {f"{i:03}.png": png(i), f"{i:03}.cls": f"{[2, 10][i % 2]}\n".encode()}
    pack(tmp_path / "told/a.tar", files)
    data = images(tmp_path / "told")
    assert data.class_names == ["2", "10"]  # by number
    assert all(y == int(name[:3]) % 2 for name, (_, y) in everything(data).items())
    assert images(tmp_path / "told", labels=False).num_classes is None
    rows = "".join(f"{i:03}.png,{'ab'[i // 6]}\n" for i in range(12))
    (tmp_path / "told/labels.csv").write_text("file,label\n" + rows)
    data = images(tmp_path / "told", labels="labels.csv")
    assert all("ab"[y] == "ab"[int(n[:3]) // 6] for n, (_, y) in everything(data).items())


def test_folders_of_archives_are_classes_and_archives_are_not(tmp_path: Path) -> None:
    pack(tmp_path / "one/a.tar", {f"{i}.png": png(i) for i in range(3)})
    pack(tmp_path / "one/b.tar", {f"{i}.png": png(9 + i) for i in range(3)})
    assert images(tmp_path / "one").num_classes is None
    pack(tmp_path / "two/cat/a.tar", {f"{i}.png": png(i) for i in range(3)})
    pack(tmp_path / "two/dog/a.tar", {f"{i}.png": png(9 + i) for i in range(3)})
    assert images(tmp_path / "two").class_names == ["cat", "dog"]


def broken(root: Path) -> dict[str, str]:
    """Archives that are wrong, and what is said of each."""
    good = root / "good.tar"
    pack(good, {"0.png": png(0), "1.png": png(1)})
    content = good.read_bytes()
    good.unlink()
    (root / "cut.tar").write_bytes(content[: 512 + 40])
    (root / "half.tar").write_bytes(content[: len(content) // 2 + 100][:2000])
    (root / "zipped.tar").write_bytes(gzip.compress(content))
    (root / "empty.tar").write_bytes(b"")
    (root / "noise.tar").write_bytes(np.random.default_rng(0).bytes(4096))
    (root / "folder.tar").mkdir()
    pack(root / "above.tar", {"../../0.png": png(0)})
    pack(root / "absolute.tar", {"/0.png": png(0)})
    huge = bytearray(content)
    huge[124:136] = b"77777777777\0"  # a member of 8 GB
    total = sum(huge[:148]) + sum(huge[156:512]) + 8 * 32
    huge[148:156] = f"{total:06o}\0 ".encode()
    (root / "huge.tar").write_bytes(huge)
    return {
        "cut": "cut short",
        "half": "cut short|unexpected end",
        "zipped": "compressed",
        "empty": "empty",
        "noise": "invalid header|bad checksum|truncated",
        "folder": "no .png, .jpg",
        "above": "outside",
        "absolute": "outside",
        "huge": "cut short|unexpected end",
    }


NAMES = ["cut", "half", "zipped", "empty", "noise", "folder", "above", "absolute", "huge"]


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_archive_is_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    words = broken(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / f"{name}.tar").rename(alone / f"{name}.tar")
    with pytest.raises((DdiffError, ConfigError), match=words[name]) as caught:
        images(alone)
    assert "\n" not in str(caught.value)
    assert "alone" in str(caught.value)


def test_what_is_wrong_with_a_member_is_said(tmp_path: Path) -> None:
    pack(tmp_path / "a/a.tar", {"0.png": png(0), "1.png": png(1)[:60], "2.png": png(2)})
    with pytest.raises(DdiffError, match=r"a\.tar/1\.png"):
        images(tmp_path / "a")
    pack(tmp_path / "b/b.tar", {"0.png": png(0), "0.cls": b"cat", "1.png": png(1)})
    with pytest.raises(DdiffError, match=r"1 of 2 pictures .* b\.tar/1\.png; data.labels=false"):
        images(tmp_path / "b")


def test_a_training_resumes_in_the_same_order(tmp_path: Path) -> None:
    for part in range(2):
        pack(tmp_path / f"s/{part}.tar", {f"{part}{i}.png": png(10 * part + i) for i in range(8)})
    words = ["data=images", "data.root=s", "data.size=8", *TINY, "budget.val_every=4"]
    for run, steps in (("whole", 8), ("parts", 4)):
        done = forked("train", *words, f"run_dir={run}", f"budget.max_steps={steps}", cwd=tmp_path)
        assert (done.status, done.err) == (0, "")
    done = forked("train", "ckpt_path=parts", "budget.max_steps=8", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    a, b = (checkpoint(tmp_path / run)["state_dict"] for run in ("whole", "parts"))
    assert differences(a, b) == []

import json
from itertools import islice

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from ddiff.data import Images, Voxels
from ddiff.system.errors import ConfigError, DdiffError


def pictures(root, names, shape=(8, 8, 3)):
    random = np.random.default_rng(0)
    made = {}
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        made[name] = random.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(made[name]).save(root / name)
    return made


def images(root, **options):
    data = Images(**({"batch_size": 4, "seed": 0, "root": str(root), "size": 8} | options))
    data.setup("fit")
    return data


def voxels(root, **options):
    data = Voxels(**({"batch_size": 4, "seed": 0, "root": str(root), "size": 6} | options))
    data.setup("fit")
    return data


def everything(data):
    """File name -> (sample, label) over both splits."""
    found = {}
    for source in (data.train, data.val):
        x, y = source.batch(torch.arange(len(source)))
        for i, file in enumerate(source.files):
            found[file.name] = (x[i], None if y is None else int(y[i]))
    return found


def test_pictures_are_read_as_they_are(tmp_path):
    made = pictures(tmp_path, [f"a/b/{i}.png" for i in range(40)])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    data = images(tmp_path)
    assert data.num_classes is None
    assert len(data.train) + len(data.val) == 40
    assert 1 <= len(data.val) <= 6
    for name, pixels in made.items():
        x, y = everything(data)[name.split("/")[-1]]
        assert y is None
        expected = torch.from_numpy(pixels).permute(2, 0, 1).double() / 127.5 - 1
        assert (x - expected).abs().max() < 1e-6


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    pictures(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "a" / "all").symlink_to(tmp_path)
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    found = images(tmp_path).listing.files
    assert found == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]


def test_class_folders_are_labels(tmp_path):
    pictures(tmp_path, ["dog/1.png", "cat/2.png", "cat/deep/3.PNG"])
    data = images(tmp_path)
    assert (data.num_classes, data.class_names) == (2, ["cat", "dog"])
    assert {name: y for name, (_, y) in everything(data).items()} == {
        "1.png": 1,
        "2.png": 0,
        "3.PNG": 0,
    }
    assert images(tmp_path, labels=False).num_classes is None
    pictures(tmp_path, ["loose.png"])
    assert images(tmp_path).num_classes is None
    with pytest.raises(ConfigError, match=r"loose.png is in no class folder"):
        images(tmp_path, labels=True)


class TestTables:
    ROWS = (("cat/1.png", "3"), ("2.png", "10"), ("3", "3"), ("elsewhere/9.png", "1"))
    COLUMNS = (("file", "label"), ("file_name", "breed"))

    def write(self, path, columns):
        rows = [dict(zip(columns, row, strict=True)) for row in self.ROWS]
        if path.suffix == ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            between = "\t" if path.suffix == ".tsv" else ","
            lines = [columns, *self.ROWS]
            path.write_text("\n".join(between.join(line) for line in lines), "utf-8-sig")

    @pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
    @pytest.mark.parametrize(("columns", "said"), [(COLUMNS[0], ""), (COLUMNS[1], ":breed")])
    def test_a_table_names_the_classes(self, tmp_path, ending, columns, said):
        """By path, by name, without the ending; whole numbers are in their order."""
        pictures(tmp_path, ["cat/1.png", "cat/2.png", "dog/3.png"])
        self.write(tmp_path / f"labels.{ending}", columns)
        data = images(tmp_path, labels=f"labels.{ending}{said}")
        assert data.class_names == ["3", "10"]
        found = {name: y for name, (_, y) in everything(data).items()}
        assert found == {"1.png": 0, "2.png": 1, "3.png": 0}

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("none.csv", None, "there is no file labels.csv in"),
            ("labels.csv", "", "has no rows"),
            (
                "labels.csv",
                "name,label\n1.png,a",
                "no column of .* names the files; it has name",
            ),
            (
                "labels.csv",
                "file,kind\n1.png,a",
                "holds the classes; it has file, .*:COLUMN",
            ),
            ("labels.csv", "file,label\n1.png,a\n2.png,", "no label for 1 of 2 files, .* 2.png"),
            ("labels.csv", b"\xff\xfe\x00file", "cannot read the table .*: 'utf-8' codec"),
            ("labels.jsonl", "[1]", r"cannot read the table .*: a line holds \[1\], no object"),
            ("labels.parquet", "PAR1", "cannot read the table "),
            ("labels.xlsx", "", "tables end in .csv, .tsv, .jsonl or .parquet"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, name, text, words):
        pictures(tmp_path, ["1.png", "2.png"])
        if text is not None:
            (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        wanted = "labels.csv" if name == "none.csv" else name
        with pytest.raises((ConfigError, DdiffError), match=words):
            images(tmp_path, labels=wanted)

    def test_names_that_are_not_alone(self, tmp_path):
        """A row `1.png` says nothing of a/1.png where there is a b/1.png too."""
        pictures(tmp_path, ["a/1.png", "b/1.png", "b/2.png"])
        (tmp_path / "t.csv").write_text("file,label\na/1,01\n1.png,x\nb/2.png,1")
        with pytest.raises(DdiffError, match=r"no label for 1 of 3 files, such as b/1.png"):
            images(tmp_path, labels="t.csv")
        (tmp_path / "t.csv").write_text("file,label\na/1,01\nb/1.png,1\n2,\u00b2")
        assert images(tmp_path, labels="t.csv").class_names == ["01", "1", "\u00b2"]

    def test_a_column_that_is_not_there_and_numbers(self, tmp_path):
        names = [f"{i}.png" for i in range(30)]
        pictures(tmp_path, names, (2, 2, 3))
        rows = [f"{name},{i / 7}" for i, name in enumerate(names)]
        (tmp_path / "t.csv").write_text("\n".join(["file,age", *rows]))
        with pytest.raises(ConfigError, match="has no column size; it has file, age"):
            images(tmp_path, labels="t.csv:size")
        with pytest.raises(ConfigError, match="30 values for 30 files; labels are classes"):
            images(tmp_path, labels="t.csv:age")


def test_the_shorter_side_is_resized_and_the_centre_cut(tmp_path):
    made = pictures(tmp_path, ["wide.png"], shape=(20, 40, 3))["wide.png"]
    resized = Image.fromarray(made).resize((20, 10), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(resized)[:, 5:15]).permute(2, 0, 1) / 127.5 - 1
    x, _ = everything(images(tmp_path, size=10))["wide.png"]
    assert (x - expected).abs().max() < 1e-6
    grey, _ = everything(images(tmp_path, size=20, channels=1))["wide.png"]
    luminance = made[:, 10:30] @ np.array([0.299, 0.587, 0.114]) / 127.5 - 1
    assert (grey[0] - torch.from_numpy(luminance)).abs().max() < 0.01


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    x, _ = everything(images(tmp_path, channels=1))["deep.png"]
    assert (x[0] - torch.from_numpy(deep / 32767.5 - 1)).abs().max() <= 1 / 255


def test_validation_files_stay_when_files_are_added(tmp_path):
    pictures(tmp_path, [f"{i}.png" for i in range(60)])
    before = images(tmp_path, val_fraction=0.2)
    assert 4 <= len(before.val) <= 22
    pictures(tmp_path, [f"new_{i}.png" for i in range(60)])
    after = images(tmp_path, val_fraction=0.2)
    assert set(before.val.files) <= set(after.val.files)
    assert not set(after.val.files) & set(after.train.files)
    assert len(after.val.files) + len(after.train.files) == 120


def test_one_picture_is_enough(tmp_path):
    pictures(tmp_path, ["only.png"])
    data = images(tmp_path)
    assert (len(data.train), len(data.val)) == (1, 1)


def test_kept_in_memory_or_not_is_the_same(tmp_path):
    pictures(tmp_path, [f"{i}.png" for i in range(12)], shape=(9, 13, 3))
    kept, fresh = images(tmp_path), images(tmp_path, cache_gb=0.0)
    assert (kept.keep, fresh.keep) == (True, False)
    assert kept.default_workers() == 0
    assert fresh.default_workers() >= 1
    rows = torch.tensor([3, 1, 3])
    for _ in range(2):
        assert torch.equal(kept.train.batch(rows)[0], fresh.train.batch(rows)[0])
    for file in kept.train.files:
        file.unlink()
    assert kept.train.batch(rows)[0].shape == (3, 3, 8, 8)  # not read again


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(DdiffError, match="nowhere does not exist"):
        images(tmp_path / "nowhere")
    with pytest.raises(DdiffError, match=r"no .png, .jpg.* files in"):
        images(tmp_path)
    with pytest.raises(ConfigError, match="channels is 2"):
        images(tmp_path, channels=2)
    with pytest.raises(ConfigError, match="val_fraction is 1"):
        images(tmp_path, val_fraction=1.0)


def test_what_was_cut_short_in_a_small_folder_is_named_before_training(tmp_path):
    pictures(tmp_path, [f"{i}.png" for i in range(8)])
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])  # its header is good
    with pytest.raises(DdiffError, match=r"cannot read the image .*1.png: .*truncated") as caught:
        images(tmp_path)
    assert "\n" not in str(caught.value)


def test_of_a_large_folder_only_the_headers_are_read_first(tmp_path, monkeypatch):
    monkeypatch.setattr("ddiff.data.images.FEW_BYTES", 1)
    pictures(tmp_path, [f"{i}.png" for i in range(8)])
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    data = images(tmp_path)
    assert len(data.train) + len(data.val) == 8
    (tmp_path / "0.png").write_bytes(b"not a picture")
    with pytest.raises(DdiffError, match=r"cannot read the image .*0.png: unknown format"):
        images(tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_picture_is_named_in_one_line(tmp_path, num_workers, monkeypatch):
    monkeypatch.setattr("ddiff.data.images.MANY_FILES", 1)
    pictures(tmp_path, [f"{i}.png" for i in range(8)])
    (tmp_path / "0.png").write_bytes(b"not a picture")
    data = images(tmp_path, num_workers=num_workers, batch_size=1, val_fraction=0.0)
    with pytest.raises(DdiffError) as caught:
        list(islice(data.train_dataloader(), 8))
    assert str(caught.value).startswith("cannot read the image")
    assert "\n" not in str(caught.value)


def volumes(root, **arrays):
    root.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)


RANDOM = np.random.default_rng(0)
BOOL = RANDOM.random((6, 6, 6)) < 0.5
FLOAT = RANDOM.random((6, 6, 6))
BYTES = RANDOM.integers(0, 256, (6, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (BOOL, 2.0 * BOOL - 1),
        (BOOL.astype(np.uint8), 2.0 * BOOL - 1),
        (BOOL.astype(np.float32)[None], 2.0 * BOOL - 1),
        (FLOAT, 2 * FLOAT - 1),
        (FLOAT.astype(np.float16), 2 * FLOAT - 1),
        (2 * FLOAT - 1, 2 * FLOAT - 1),
        (BYTES, BYTES / 127.5 - 1),
        (np.where(BOOL, 1, -1).astype(np.int8), 2.0 * BOOL - 1),
    ],
)
def test_volumes_are_read_as_they_are(tmp_path, array, expected):
    volumes(tmp_path, one=array)
    x, _ = everything(voxels(tmp_path))["one.npy"]
    assert x.shape == (1, 6, 6, 6)
    assert x.dtype == torch.float32
    assert (x[0] - torch.from_numpy(expected)).abs().max() < 1e-3
    if array.dtype in (bool, np.uint8) and array.max() == 1:
        assert set(x.unique().tolist()) == {-1.0, 1.0}


def test_npz_and_mixed_types_and_classes(tmp_path):
    for name in ("ball", "box"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "box" / "z.npz", anything=BOOL)
    np.save(tmp_path / "ball" / "f.npy", FLOAT)
    np.save(tmp_path / "ball" / "b.npy", BOOL)
    data = voxels(tmp_path)
    found = everything(data)
    assert {name: y for name, (_, y) in found.items()} == {"f.npy": 0, "b.npy": 0, "z.npz": 1}
    assert torch.equal(found["z.npz"][0], found["b.npy"][0])
    assert (found["f.npy"][0][0] - torch.from_numpy(2 * FLOAT - 1)).abs().max() < 1e-6


def test_what_is_wrong_with_a_volume_is_said(tmp_path):
    volumes(tmp_path, a=BOOL, b=BOOL)
    volumes(tmp_path, b=np.zeros((6, 5, 6), np.uint8))
    with pytest.raises(DdiffError, match=r"b.npy has shape \(6, 5, 6\), but .*\(6, 6, 6\)"):
        voxels(tmp_path)
    volumes(tmp_path, b=np.full((6, 6, 6), np.nan))
    with pytest.raises(DdiffError, match=r"b.npy has values from nan"):
        everything(voxels(tmp_path))
    volumes(tmp_path, b=np.array([{}], dtype=object))
    with pytest.raises(DdiffError, match=r"cannot read the volume .*b.npy"):
        voxels(tmp_path)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-7])
    with pytest.raises(DdiffError, match=r"cannot read the volume .*b.npy"):
        voxels(tmp_path)
    (tmp_path / "b.npy").unlink()
    np.savez(tmp_path / "c.npz", x=BOOL, y=BOOL)
    with pytest.raises(DdiffError, match=r"c.npz: one array expected, found x, y"):
        everything(voxels(tmp_path))


def test_values_can_be_said_and_are_checked(tmp_path):
    volumes(tmp_path, a=FLOAT)
    x, _ = everything(voxels(tmp_path, values="signed"))["a.npy"]
    assert (x[0] - torch.from_numpy(FLOAT)).abs().max() < 1e-6
    volumes(tmp_path, b=2 * FLOAT - 1)
    with pytest.raises(DdiffError, match=r"b.npy has values from -0.9.*values=unit"):
        everything(voxels(tmp_path, values="unit"))
    with pytest.raises(ConfigError, match="did you mean 'signed'"):
        voxels(tmp_path, values="sined")


def test_auto_looks_at_every_volume_and_says_what_it_saw(tmp_path, capsys):
    volumes(tmp_path, **{f"v{i:02}": (BOOL * 255).astype(np.uint8) * (i == 29) for i in range(40)})
    x, _ = everything(voxels(tmp_path))["v29.npy"]
    assert torch.equal(x[0], torch.from_numpy(2.0 * BOOL - 1).float())
    out = capsys.readouterr().out
    assert " ".join(out.split()) == (
        "values 0..255 in 40 volumes, taken as bytes; data.values= says otherwise"
    )
    voxels(tmp_path, values="bytes")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (BYTES, r"v0.npy has values from 0 to 1 \(unit\) and .*odd.npy has values from 2 to 25"),
        (2 * FLOAT - 1, r"v0.npy has values from 0 to 1 \(unit\) and .*odd.npy .*\(signed\)"),
        (FLOAT - 5, r"odd.npy has values from -4.*none of 0..1 \(unit\)"),
        (300 * FLOAT, r"odd.npy has values from .*none of .*0..255 \(bytes\)"),
        (np.where(BOOL, np.nan, 0), r"odd.npy has values from nan"),
    ],
)
def test_a_mixture_is_refused_and_a_file_of_each_kind_named(tmp_path, odd, words):
    volumes(tmp_path, **{f"v{i}": BOOL for i in range(6)}, w_odd=odd)
    with pytest.raises(DdiffError, match=words):
        voxels(tmp_path)


def test_what_a_mixture_means_can_be_said(tmp_path):
    volumes(tmp_path, v0=BOOL.astype(np.uint8), odd=BYTES)
    with pytest.raises(DdiffError, match=r"say data.values= or rescale"):
        voxels(tmp_path)
    x, _ = everything(voxels(tmp_path, values="bytes"))["v0.npy"]
    assert torch.allclose(x[0], torch.from_numpy(BOOL / 127.5 - 1).float())


def test_an_empty_volume_goes_with_any_kind(tmp_path):
    volumes(tmp_path, empty=np.zeros((6, 6, 6)), v=BYTES)
    found = everything(voxels(tmp_path))
    assert found["empty.npy"][0].max() == -1
    assert found["v.npy"][0].max() > 0.9

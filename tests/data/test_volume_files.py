"""Volumes of every format, read from files that its own library wrote."""

import re
import shutil
from itertools import islice
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
import torch
import trimesh
import zarr
from PIL import Image

import ddiff.data.volume_files
from ddiff.data import Voxels
from ddiff.data.checking import check
from ddiff.data.folders import PACKAGES, VOLUMES, listing
from ddiff.data.volume_files import EXTRAS, filled, read_numbers, volume_header, write_volume
from ddiff.system.errors import ConfigError, DdiffError

SMOOTH = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def voxels(root: Path, size: object, **options: object) -> Voxels:
    data = Voxels(2, 0, str(root), size, **{"val_fraction": 0.0, **options})
    data.setup("fit")
    return data


def sample(data: Voxels, name: str) -> torch.Tensor:
    """The sample of one file, of either split."""
    for source in (data.train, data.val):
        for i, file in enumerate(source.files):
            if file.name == name:
                return source.batch(torch.tensor([i]))[0][0]
    raise AssertionError(name)


def save(path: Path, array: np.ndarray) -> None:
    """Write [D, H, W] with 2, 1.5 and 0.5 mm between voxels along its axes, where there is room."""
    ending = "".join(path.suffixes)
    if ending in (".nii", ".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2, 1.5, 0.5, 1])), path)
    elif ending in (".nrrd", ".mha"):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((0.5, 1.5, 2.0))
        SimpleITK.WriteImage(image, str(path))
    elif ending == ".zarr":
        zarr.create_array(path, data=array)
    else:
        about = {"spacing": 2.0, "unit": "mm", "axes": "ZYX"}
        resolution = (1 / 0.5, 1 / 1.5)
        tifffile.imwrite(path, array, imagej=True, resolution=resolution, metadata=about)


class TestRawWithAHeader:
    """A .raw and what says its shape, type and spacing: MetaImage's .mhd or NRRD's .nhdr."""

    @pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
    def test_it_is_read(self, tmp_path, ending):
        image = SimpleITK.GetImageFromArray(SMOOTH)
        image.SetSpacing((0.5, 1.5, 2.0))
        SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
        assert (tmp_path / "a.raw").is_file()
        header = volume_header(tmp_path / f"a{ending}", ())
        assert header.spacing == pytest.approx((2.0, 1.5, 0.5))
        assert np.array_equal(read_numbers(tmp_path / f"a{ending}", ()), SMOOTH)
        data = voxels(tmp_path, [5, 6, 7], percentiles=(0, 100))
        assert [file.name for file in data.files] == [f"a{ending}"]

    @pytest.mark.parametrize(
        ("said", "words"),
        [
            ("other.raw", "its numbers should be in other.raw, which is missing"),
            ("../a.raw", "its numbers are in ../a.raw, which does not lie beside it"),
            ("/etc/hostname", "its numbers are in /etc/hostname, which does not lie beside it"),
            ("a.raw", "it is cut short or damaged"),
        ],
    )
    def test_a_header_that_lies(self, tmp_path, said, words):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(SMOOTH), str(tmp_path / "a.mhd"))
        (tmp_path / "a.raw").write_bytes(SMOOTH.tobytes()[:-4])
        header = (tmp_path / "a.mhd").read_text().replace("a.raw", said)
        (tmp_path / "a.mhd").write_text(header)
        with pytest.raises(DdiffError, match=re.escape(words)) as error:
            volume_header(tmp_path / "a.mhd", ())
        assert "\n" not in str(error.value)


def test_units_become_millimetres(tmp_path):
    image = nibabel.Nifti1Image(SMOOTH, np.diag([200, 150, 50, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    about = {"spacing": 200, "unit": "um", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "a.tif", SMOOTH, imagej=True, resolution=(1 / 50, 1 / 150),
                     metadata=about)  # fmt: skip
    for name in ("a.nii", "a.tif"):
        spacing = volume_header(tmp_path / name, ()).spacing
        assert spacing == pytest.approx((0.2, 0.15, 0.05), rel=1e-3)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_says_its_spacing_and_may_have_times_and_channels_of_one(version, tmp_path):
    """[t, c, z, y, x] of 1, 1, 5, 6, 7 with 0.2, 0.15 and 0.05 mm, in micrometres."""
    folder = zarr.open_group(tmp_path / "a.zarr", mode="w")
    folder.create_array("full", data=SMOOTH[None, None])
    folder.create_array("half", data=SMOOTH[None, None, :, ::2, ::2])
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "tczyx"]
    scales = [{
        "axes": axes,
        "datasets": [
            {"path": "full", "coordinateTransformations": [
                {"type": "scale", "scale": [1, 1, 100, 75, 25]},
                {"type": "translation", "translation": [0, 0, 10, 0, 0]},
            ]},
            {"path": "half"},
        ],
        "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 2, 2]}],
    }]  # fmt: skip
    about = {"multiscales": scales}
    folder.attrs.update({"ome": about} if version == "0.5" else about)
    header = volume_header(tmp_path / "a.zarr", ())
    assert header.shape == (1, 5, 6, 7)
    assert header.spacing == pytest.approx((0.2, 0.15, 0.05))
    assert header.affine is not None
    assert header.affine[:3, 3] == pytest.approx((0.02, 0, 0))
    assert np.array_equal(read_numbers(tmp_path / "a.zarr", ())[0], SMOOTH)
    x = sample(voxels(tmp_path, [5, 6, 7], window=[-1, 2]), "a.zarr")
    assert np.abs(x[0].numpy() - ((np.clip(SMOOTH, -1, 2) + 1) / 1.5 - 1)).max() < 1e-6
    del scales[0]["axes"]
    folder.attrs.update({"ome": about} if version == "0.5" else about)
    with pytest.raises(DdiffError, match="its multiscales are not those of OME-Zarr"):
        volume_header(tmp_path / "a.zarr", ())


SCANS = (".nii", ".nii.gz", ".nrrd", ".mha", ".zarr", ".tif")


@pytest.mark.parametrize("ending", SCANS)
def test_every_format_is_read_as_its_library_wrote_it(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{ending}"
    save(path, SMOOTH)
    header = volume_header(path, (5, 6, 7))
    assert (header.shape, header.dtype) == ((5, 6, 7), np.float32)
    if ending == ".zarr":
        assert header.spacing is None
    else:
        assert header.spacing == pytest.approx((2, 1.5, 0.5), rel=1e-6)
    assert np.array_equal(read_numbers(path, (5, 6, 7)), SMOOTH)
    x = sample(voxels(tmp_path, [5, 6, 7], window=[-1, 2]), path.name)
    expected = (np.clip(SMOOTH, -1, 2) + 1) / 1.5 - 1
    assert np.abs(x[0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("ending", SCANS)
@pytest.mark.parametrize("wrong", ["short", "empty", "rank", "nan", "shape", "text"])
def test_a_broken_file_is_named_in_one_line(ending: str, wrong: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}{ending}", np.tile(SMOOTH, (4, 4, 4)))
    path = tmp_path / f"b{ending}"
    if ending == ".zarr":
        chunk = next(p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json")
        if wrong in ("short", "empty", "text"):
            whole = chunk.read_bytes()
            chunk.write_bytes(
                {"short": whole[: len(whole) // 2], "empty": b"", "text": b"x"}[wrong]
            )
    elif wrong in ("short", "empty", "text"):
        whole = path.read_bytes()
        path.write_bytes(
            {"short": whole[: len(whole) // 2], "empty": b"", "text": b"not it"}[wrong]
        )
    if wrong in ("rank", "nan", "shape"):
        array = {"rank": np.zeros((4, 5), np.float32), "shape": np.zeros((2, 3, 4), np.float32),
                 "nan": np.full((20, 24, 28), np.nan, np.float32)}[wrong]  # fmt: skip
        if ending == ".tif":
            tifffile.imwrite(path, array, photometric="minisblack")
        else:
            if path.is_dir():
                shutil.rmtree(path)
            save(path, array)
    with pytest.raises(DdiffError) as caught:
        voxels(tmp_path, [20, 24, 28], window=[-1, 2])
    assert f"b{ending}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nifti_is_turned_to_its_canonical_axes_and_resampled(tmp_path: Path) -> None:
    """Twelve scans of 12 x 14 x 10 whose axes are left, superior, anterior: a voxel's place and its
    value after turning, resampling from 1 x 2 x 3 mm to 1 x 1 x 2 mm, and the window."""
    affine = np.array([[-1, 0, 0, 40], [0, 0, 3, -5], [0, 2, 0, 7], [0, 0, 0, 1.0]])
    i, j, k = np.indices((12, 14, 10))
    for n in range(12):
        ramp = (100 * i + 10 * j + k + n).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(ramp, affine), tmp_path / f"{n:02}.nii.gz")
    header = volume_header(tmp_path / "00.nii.gz", (1, 1, 1))
    assert (header.shape, header.spacing) == ((12, 10, 14), (1.0, 3.0, 2.0))
    as_nibabel = nibabel.as_closest_canonical(nibabel.load(tmp_path / "03.nii.gz"))
    assert np.array_equal(read_numbers(tmp_path / "03.nii.gz", (1,) * 3), as_nibabel.get_fdata())
    assert np.allclose(volume_header(tmp_path / "03.nii.gz", (1,) * 3).affine, as_nibabel.affine)
    options = {"spacing": [1, 1, 2], "window": [0, 2000]}
    data = voxels(tmp_path, [12, 30, 14], **options)
    x = sample(data, "03.nii.gz")[0].numpy() * 1000 + 1000
    # right is 11 - i; anterior is k, at (y - 1) / 3 after resampling; superior is j
    expected = 100 * (11 - 4) + 10 * 5 + (16 - 1) / 3 + 3
    assert x[4, 16, 5] == pytest.approx(expected, abs=1e-3)
    facts = data.facts()
    place = np.array(facts["affine"]) @ [4, 16, 5, 1]
    assert place == pytest.approx([40 - (11 - 4), -5 + 3 * 5, 7 + 2 * 5, 1])
    assert (facts["values"], facts["cut_to"]) == ([0, 2000], None)


@pytest.mark.parametrize(
    ("fit", "size", "refused"),
    [
        ("exact", [8, 6, 4], "pad_crop takes it"),
        ("pad", [8, 8, 4], "pad_crop takes it"),
        ("crop", [8, 4, 4], "pad_crop takes it"),
        ("pad", [8, 8, 8], None),
        ("crop", [4, 4, 4], None),
        ("pad_crop", [8, 6, 4], None),
        ("random_crop", [8, 4, 4], "pad_crop takes it"),
        ("random_crop", [4, 4, 4], None),
    ],
)
def test_volumes_are_fitted_about_their_middle(
    fit: str, size: list[int], refused: str | None, tmp_path: Path
) -> None:
    array = np.arange(6**3, dtype=np.uint8).reshape(6, 6, 6)
    np.save(tmp_path / "a.npy", array)
    if refused:
        with pytest.raises(DdiffError, match=refused):
            voxels(tmp_path, size, fit=fit)
        return
    data = voxels(tmp_path, size, fit=fit)
    x = (data.val.batch(torch.arange(1))[0][0, 0].numpy() + 1) * 127.5
    padded = np.pad(array, [(max(0, n - 6) // 2,) * 2 for n in size])
    starts = [(have - n) // 2 for have, n in zip(padded.shape, size, strict=True)]
    (a, b, c), (p, q, r) = starts, size
    assert np.allclose(x, padded[a : a + p, b : b + q, c : c + r], atol=1e-4)
    assert data.facts()["cut_to"] == {"pad": [6, 6, 6], "pad_crop": [6, 6, 4]}.get(fit)


def test_random_windows_depend_on_the_seed_and_the_batch_alone(tmp_path: Path) -> None:
    for n, side in enumerate((8, 12, 10, 9)):
        np.save(tmp_path / f"{n}.npy", np.random.default_rng(n).random((side, side, side + 1)))
    data = voxels(tmp_path, 6, fit="random_crop", values="unit")
    first = [x for x, _ in islice(data.train_dataloader(), 12)]
    data.position = 5
    later = [x for x, _ in islice(data.train_dataloader(), 7)]
    assert all(torch.equal(a, b) for a, b in zip(first[5:], later, strict=True))
    other = voxels(tmp_path, 6, fit="random_crop", values="unit", cache_gb=0.0, num_workers=0)
    assert (data.keep, other.keep) == (True, False)
    assert torch.equal(next(iter(other.train_dataloader()))[0], first[0])
    flat = torch.cat(first).flatten(1)
    assert len(flat.unique(dim=0)) > 20  # of 24, from 3 files: windows differ
    assert all(x.shape == (2, 1, 6, 6, 6) for x in first)
    one, two = (data.val.batch(torch.arange(1))[0] for _ in range(2))
    assert torch.equal(one, two)


def test_masks_are_cut_as_their_volumes(tmp_path: Path) -> None:
    """The same windows, in training with and without memory, mirrored too; and in validation."""
    for folder in ("scans", "masks"):
        (tmp_path / folder).mkdir()
    for n, side in enumerate((8, 12, 10, 9)):
        scan = np.random.default_rng(n).random((side, side, side + 1))
        np.save(tmp_path / f"scans/{n}.npy", scan)
        np.save(tmp_path / f"masks/{n}.npy", (scan > 0.5).astype(np.uint8))
    options = {"fit": "random_crop", "values": "unit", "flip": True, "val_fraction": 0.5,
               "masks": str(tmp_path / "masks")}  # fmt: skip
    for more in ({}, {"cache_gb": 0.0, "num_workers": 0}):
        data = voxels(tmp_path / "scans", 6, **options, **more)
        batches = [*islice(data.train_dataloader(), 6), *data.val_dataloader()]
        for x, y in batches:
            assert torch.equal(data.layout.part(y, "mask"), torch.where(x > 0, 1.0, -1.0))
    np.save(tmp_path / "masks/1.npy", np.zeros((12, 12, 12), np.uint8))
    with pytest.raises(
        DdiffError, match=r"1.npy has \(12, 12, 12\) voxels, and .*1.npy has \(12, 12"
    ):
        _ = voxels(tmp_path / "scans", 6, **options).tellers


def test_percentiles_are_of_each_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000.0).reshape(10, 10, 10))
    np.save(tmp_path / "b.npy", -3 * np.arange(1000.0).reshape(10, 10, 10))
    np.save(tmp_path / "c.npy", np.full((10, 10, 10), 7.0))
    data = voxels(tmp_path, 10, percentiles=[10, 90])
    low, high = np.percentile(np.arange(1000), [10, 90])
    expected = (np.clip(np.arange(1000), low, high) - low) * 2 / (high - low) - 1
    assert np.abs(sample(data, "a.npy").flatten().numpy() - expected).max() < 1e-5
    assert np.abs(sample(data, "b.npy").flatten().numpy() + expected).max() < 1e-5
    assert (sample(data, "c.npy") == -1).all()
    assert data.facts()["values"] is None


def test_a_sphere_of_triangles_becomes_a_solid(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(4, 7.0)
    ball.apply_translation([100, 5, -3])
    for ending in ("stl", "ply", "obj"):
        ball.export(tmp_path / f"ball.{ending}")
    data = voxels(tmp_path, [20, 24, 28])
    x = sample(data, "ball.stl")
    assert all(torch.equal(x, sample(data, f"ball.{ending}")) for ending in ("ply", "obj"))
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    # the shortest side, 20, holds it with a margin of one voxel: a radius of 9
    d2 = sum((axis - (n - 1) / 2) ** 2 for axis, n in
             zip(np.ogrid[:20, :24, :28], (20, 24, 28), strict=True))  # fmt: skip
    solid = (x[0] > 0).numpy()
    assert solid[d2 < 8.9**2].all()
    assert not solid[d2 > 9.05**2].any()
    bar = trimesh.creation.box([1, 2, 4])
    bar.export(tmp_path / "ball.stl")
    x = sample(voxels(tmp_path, 18), "ball.stl")[0].numpy() > 0
    # the longest side is z, the first axis
    assert [x.any(others).sum() for others in ((1, 2), (0, 2), (0, 1))] == [16, 8, 4]
    assert x.sum() == 16 * 8 * 4


def test_overlapping_solids_are_their_union_and_open_ones_are_refused(tmp_path: Path) -> None:
    a, b = trimesh.creation.box([8, 8, 8]), trimesh.creation.box([8, 8, 8])
    b.apply_translation([4, 0, 0])
    both = trimesh.util.concatenate([a, b])
    triangles = both.vertices[both.faces][..., ::-1] + [7.5, 7.5, 7.5]
    assert filled(triangles, (16, 16, 16)).sum() == 8 * 8 * 12
    a.update_faces(np.arange(len(a.faces)) > 0)
    a.export(tmp_path / "open.ply")
    with pytest.raises(DdiffError, match=r"open.ply: its surface is not closed"):
        voxels(tmp_path, 16)
    (tmp_path / "open.ply").write_bytes(b"ply\nformat")
    with pytest.raises(DdiffError, match=r"cannot read the volume .*open.ply"):
        voxels(tmp_path, 16)


def test_channels_come_first(tmp_path: Path) -> None:
    array = np.random.default_rng(1).random((2, 4, 5, 6)).astype(np.float32)
    last = np.moveaxis(array, 0, 3)
    nibabel.save(nibabel.Nifti1Image(last, np.eye(4)), tmp_path / "a.nii")
    image = SimpleITK.GetImageFromArray(last, isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "b.nrrd"))
    data = voxels(tmp_path, [4, 5, 6], channels=2, values="unit")
    for name in ("a.nii", "b.nrrd"):
        assert np.allclose(sample(data, name), 2 * array - 1, atol=1e-6)
    tifffile.imwrite(tmp_path / "c.tif", np.moveaxis(array, 0, 1), imagej=True,
                     metadata={"axes": "ZCYX"})  # fmt: skip
    assert np.array_equal(read_numbers(tmp_path / "c.tif", (4, 5, 6)), array)


def test_of_several_kinds_of_files_one_is_the_data_set(tmp_path: Path) -> None:
    for name in ("a.npy", "a.ply", "a.tif", "a.nii.gz", "b.nrrd"):
        (tmp_path / name).touch()
    (tmp_path / "c.zarr" / "c").mkdir(parents=True)
    (tmp_path / "c.zarr" / "c" / "x.nii").touch()
    assert listing(tmp_path, VOLUMES, None).files == ["a.npy"]
    (tmp_path / "a.npy").unlink()
    assert listing(tmp_path, VOLUMES, None).files == ["a.nii.gz", "b.nrrd", "c.zarr"]


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", 3000 * SMOOTH)
    with pytest.raises(DdiffError, match=r"a.npy has .*data.window=.*data.percentiles="):
        voxels(tmp_path, [5, 6, 7])
    with pytest.raises(DdiffError, match=r"a.npy does not say its spacing"):
        voxels(tmp_path, [5, 6, 7], spacing=[1, 1, 1], window=[0, 1])
    with pytest.raises(ConfigError, match="window and percentiles say the same twice"):
        voxels(tmp_path, [5, 6, 7], window=[0, 1], percentiles=[0, 99])
    with pytest.raises(ConfigError, match=r"window is \[3, 1\], but the first must be less"):
        voxels(tmp_path, [5, 6, 7], window=[3, 1])
    with pytest.raises(ConfigError, match="did you mean 'pad_crop'"):
        voxels(tmp_path, [5, 6, 7], fit="padcrop")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.nii", SMOOTH)
    monkeypatch.setattr(ddiff.data.volume_files, "find_spec", lambda name: None)
    with pytest.raises(DdiffError, match=r"a.nii: .nii files need nibabel.*'ddiff\[nifti\]'"):
        voxels(tmp_path, [5, 6, 7])
    assert set(PACKAGES.values()) == set(EXTRAS)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_with_its_affine(
    ending: str, channels: int, tmp_path: Path
) -> None:
    x = np.random.default_rng(1).normal(size=(channels, 4, 5, 6)).astype(np.float32)
    # canonical, so that NIfTI's axes stay: turned by a little, 2, 1.5 and 0.5 mm between voxels
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [2, 1.5, 0.5], [7, -8, 9]
    path = tmp_path / f"a{ending}"
    write_volume(path, x, affine)
    assert np.array_equal(read_numbers(path, (4, 5, 6)), x[0] if channels == 1 else x)
    header = volume_header(path, (4, 5, 6))
    if ending == ".npy":
        assert header.affine is None
    elif ending == ".tif":
        assert header.spacing == pytest.approx((2, 1.5, 0.5), rel=1e-6)
    else:
        assert np.allclose(header.affine, affine, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_check_shows_what_there_is_and_what_becomes_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for n in range(20):
        scan = np.random.default_rng(n).integers(-900, 300, (6, 5, 4 + (n == 7)), np.int16)
        scan[0, 0, :2] = -1000, 299
        image = nibabel.Nifti1Image(scan, np.diag([-1, 2, 3, 1]))
        nibabel.save(image, tmp_path / f"{n}.nii.gz")
    options = {"spacing": [2, 2, 2], "window": [-500, 200], "val_fraction": 0.3}
    data = Voxels(4, 0, str(tmp_path), [4, 6, 6], **options)
    with pytest.raises(
        DdiffError, match=r"\(3, 5, 6\) at data.spacing, .*data.fit=pad or pad_crop"
    ):
        check(data, tmp_path / "look.png")
    assert "6x5x4 in 19, 6x5x5 in 1" in capsys.readouterr().out
    assert not (tmp_path / "look.png").exists()
    data = Voxels(4, 0, str(tmp_path), [4, 6, 6], fit="pad_crop", **options)
    check(data, tmp_path / "look.png")
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    val = len(data.val)
    for row in (
        "number 20 (.nii.gz)", "shapes 6x5x4 in 19, 6x5x5 in 1", "numbers int16",
        "values -1000 to 299", "spacing 1x2x3 mm", "resampled to 2x2x2 mm, linearly",
        "values -500 becomes -1 and 200 becomes 1", "fit pad_crop to 4x6x6", "shape 1x4x6x6",
        "memory 1.15e-05 GB, kept in memory", f"train {20 - val}", f"val {val}",
    ):  # fmt: skip
        assert row in rows, row
    assert 3 <= val <= 10
    with Image.open(tmp_path / "look.png") as shown:
        assert min(shown.size) > 300  # a grid of stills

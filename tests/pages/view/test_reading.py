import os

import numpy as np
import pytest
from PIL import Image

from ddiff.pages.view.reading import read, signed
from ddiff.system.errors import ConfigError, DdiffError

RNG = np.random.default_rng(0)
VOLUMES = np.clip(RNG.normal(size=(3, 1, 4, 5, 6)), -1, 1).astype(np.float32)
IMAGES = np.clip(RNG.normal(size=(3, 3, 5, 6)), -1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], [1, -1]),
        ([0.0, 0.25, 1.0], [-1, -0.5, 1]),
        ([0, 1], [-1, 1]),
        ([0.0, 127.5, 255.0], [-1, 0, 1]),
        ([-0.5, 1.25], [-0.5, 1.25]),
    ],
)
def test_auto_range(values, expected):
    np.testing.assert_allclose(signed(np.array(values)), expected, atol=1e-6)


def test_a_said_range_is_not_guessed():
    np.testing.assert_array_equal(signed(np.array([0.0, 0.5]), "signed"), [0, 0.5])
    np.testing.assert_allclose(signed(np.array([0.0, 1.0]), "bytes"), [-1, 2 / 255 - 1])
    with pytest.raises(ConfigError, match="auto, signed, unit, bytes"):
        signed(np.zeros(1), "percent")
    with pytest.raises(DdiffError, match="values from -1000 to 3000"):
        signed(np.array([-1000.0, 3000.0]))


def test_a_single_negative_value_does_not_make_it_signed():
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    values[0] = -0.1
    np.testing.assert_allclose(signed(values), 2 * values - 1, atol=1e-6)
    values[:100] = -0.1
    with pytest.raises(DdiffError, match=r"100 of 1000 below -0\.05: that may be"):
        signed(values)


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (VOLUMES, "volumes", VOLUMES[:, 0]),
        (VOLUMES[:, 0], "volumes", VOLUMES[:, 0]),
        (VOLUMES[0, 0], "volumes", VOLUMES[:1, 0]),
        (VOLUMES > 0, "volumes", np.where(VOLUMES[:, 0] > 0, 1, -1)),
        (IMAGES, "images", IMAGES),
        (IMAGES.transpose(0, 2, 3, 1), "images", IMAGES),
        (IMAGES[0], "images", IMAGES[:1]),
        (IMAGES[0].transpose(1, 2, 0), "images", IMAGES[:1]),
        (IMAGES[0, 0], "images", IMAGES[:1, :1]),
    ],
)
def test_npy_of_every_shape(tmp_path, array, kind, expected):
    np.save(tmp_path / "a.npy", array)
    found = read(tmp_path / "a.npy")
    assert found.kind == kind
    np.testing.assert_array_equal(found.samples, expected)


def test_num_takes_the_first(tmp_path):
    np.save(tmp_path / "a.npy", VOLUMES)
    found = read(tmp_path / "a.npy", num=2)
    np.testing.assert_array_equal(found.samples, VOLUMES[:2, 0])
    assert (found.captions, found.total) == (["#0", "#1"], 3)
    assert found.title == "a.npy: 3 volumes, the first 2"


def test_npz_names(tmp_path):
    np.savez(tmp_path / "one.npz", anything=VOLUMES)
    np.savez(tmp_path / "two.npz", a=VOLUMES, b=IMAGES)
    np.testing.assert_array_equal(read(tmp_path / "one.npz").samples, VOLUMES[:, 0])
    np.testing.assert_array_equal(read(tmp_path / "two.npz", key="b").samples, IMAGES)
    with pytest.raises(ConfigError, match=r"choose key=a\|b"):
        read(tmp_path / "two.npz")


def test_png_is_bytes_even_when_dark(tmp_path):
    pixels = np.array([[0, 1], [1, 0]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_allclose(read(tmp_path / "a.png").samples[0, 0], pixels / 127.5 - 1)
    Image.fromarray(np.uint16([[0, 65535]])).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read(tmp_path / "deep.png").samples[0, 0], [[-1, 1]])


def test_folder_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        np.save(tmp_path / f"v_{number}.npy", np.full((2, 2, 4), number / 10 - 0.95))
    found = read(tmp_path, num=2)
    assert (found.captions, found.total) == (["v_1", "v_9"], 3)
    np.testing.assert_allclose(found.samples[:, 0, 0, 0], [-0.85, -0.05])
    np.save(tmp_path / "v_2.npy", np.zeros((3, 2, 4)))
    with pytest.raises(DdiffError, match=r"v_2.npy has shape \[3, 2, 4\]"):
        read(tmp_path)


def test_run_shows_its_newest_samples_as_they_are(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    with pytest.raises(DdiffError, match="no samples yet"):
        read(tmp_path)
    for number, step in enumerate(("step_000900", "step_001000")):
        np.save(folder / f"{step}.npy", np.full((1, 1, 2, 2, 4), 0.25 + 0.5 * number))
        os.utime(folder / f"{step}.npy", (number, number))
    found = read(tmp_path)
    assert found.source.name == "step_001000.npy"
    np.testing.assert_array_equal(found.samples, np.full((1, 2, 2, 4), 0.75, np.float32))


def broken(tmp_path, name):
    path = tmp_path / name
    np.save(tmp_path / "whole.npy", VOLUMES)
    whole = (tmp_path / "whole.npy").read_bytes()
    content = {"short.npy": whole[:-1], "header.npy": whole[:40], "void.npy": b"", "no.npz": b"no"}
    if name in content:
        path.write_bytes(content[name])
    elif name == "pickle.npy":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif name == "half.png":
        Image.fromarray(RNG.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "ok.png")
        path.write_bytes((tmp_path / "ok.png").read_bytes()[:2000])
    elif name == "text.txt":
        path.write_text("1 2 3")
    elif name == "rank.npy":
        np.save(path, np.zeros((1, 2, 2, 2, 2, 2)))
    elif name == "nan.npy":
        np.save(path, np.where(VOLUMES > 0.9, np.nan, VOLUMES))
    elif name == "none.npy":
        np.save(path, VOLUMES[:0])
    elif name == "scalar.npy":
        np.save(path, np.float32(1))
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short.npy", "cut short or damaged.* 1 bytes are missing"),
        ("header.npy", "cannot read the samples"),
        ("void.npy", "it is empty"),
        ("no.npz", "it is no .npy or .npz file"),
        ("pickle.npy", "pickles are not loaded"),
        ("half.png", "image file is truncated"),
        ("text.txt", "cannot read .txt"),
        ("rank.npy", r"cannot show an array of shape \[1, 2, 2, 2, 2, 2\]"),
        ("nan.npy", "are NaN or infinite, the first at"),
        ("none.npy", "nothing to show"),
        ("scalar.npy", "neither an image nor a volume"),
        ("missing.npy", "no such file or folder"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_with_its_name(tmp_path, name, words):
    path = broken(tmp_path, name)
    with pytest.raises(DdiffError, match=words) as caught:
        read(path)
    assert f"{path}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_folders_are_read_a_class_at_a_time(tmp_path):
    for name, value in (("cube", 0), ("ball", 1)):
        (tmp_path / name).mkdir()
        for i in range(2):
            np.save(tmp_path / name / f"vox_{i}.npy", np.full((4, 4, 4), value, np.uint8))
    found = read(tmp_path, num=3)
    assert found.total == 4
    assert [int(v.max()) for v in found.samples] == [1, -1, 1]  # ball, cube, ball

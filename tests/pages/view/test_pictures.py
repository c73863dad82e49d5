import numpy as np
import pytest
from PIL import Image

from ddiff.pages.view.pictures import BACKGROUND, image_grid, save_png
from ddiff.system.errors import ConfigError, DdiffError


def test_grid_pixels_are_exact():
    samples = np.array([-1, 0, 1], np.float32).reshape(3, 1, 1, 1) * np.ones((3, 1, 2, 3))
    grid = image_grid(samples, columns=2, padding=1, scale=1)
    line, gap = [BACKGROUND] * 9, BACKGROUND
    first = [gap, 0, 0, 0, gap, 128, 128, 128, gap]
    second = [gap, 255, 255, 255, *[gap] * 5]
    expected = np.array([line, first, first, line, second, second, line])
    np.testing.assert_array_equal(grid, np.repeat(expected[..., None], 3, axis=2))


def test_colours_keep_their_channels_and_values_are_clamped():
    sample = np.array([-3.0, 0.5, 7.0]).reshape(1, 3, 1, 1)
    assert image_grid(sample, padding=0, scale=1).tolist() == [[[0, 191, 255]]]


@pytest.mark.parametrize(("side", "cell"), [(8, 64), (28, 84), (32, 64), (64, 64), (100, 100)])
def test_small_images_are_enlarged_by_whole_pixels(side, cell):
    rng = np.random.default_rng(side)
    levels = rng.integers(0, 256, (1, 1, side, side))
    grid = image_grid(levels / 127.5 - 1, padding=0)
    assert grid.shape == (cell, cell, 3)
    factor = cell // side
    np.testing.assert_array_equal(
        grid[factor // 2 :: factor, factor // 2 :: factor, 0], levels[0, 0]
    )


def test_default_grid_is_about_square():
    assert image_grid(np.zeros((10, 1, 64, 64)), padding=0).shape == (3 * 64, 4 * 64, 3)


def test_png_holds_the_pixels_and_leaves_nothing_else(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = save_png(pixels, tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_png(np.zeros((2, 2, 3), np.uint8), tmp_path / "a.png")
    before = path.read_bytes()

    def fill_disk(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_disk)
    with pytest.raises(DdiffError, match=r"cannot write .*No space left"):
        save_png(np.ones((2, 2, 3), np.uint8), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((2, 2, 4, 4)), "images must be"),
        (np.zeros((0, 1, 4, 4)), "nothing to show"),
        (np.full((1, 1, 2, 2), np.nan), "4 of 4 values are NaN"),
        (np.zeros((1, 1, 2, 2), complex), "not complex128"),
    ],
)
def test_bad_samples_are_one_line(samples, words):
    with pytest.raises(DdiffError, match=words):
        image_grid(samples)


def test_no_columns_is_refused():
    with pytest.raises(ConfigError, match="columns=0"):
        image_grid(np.zeros((1, 1, 2, 2)), columns=0)

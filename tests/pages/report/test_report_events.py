import numpy as np

from ddiff.pages.report.events import read_scalars
from tests.pages.report.made import START, events


def rows(tag, *points):
    return [(tag, *point) for point in points]


def test_steps_are_those_done_and_seconds_those_of_training(tmp_path):
    events(tmp_path, rows("train/loss", (9, 10.0, 0.5), (19, 20.0, 0.25)))
    curve = read_scalars(tmp_path, ["train/loss", "val/loss"])["train/loss"]
    np.testing.assert_array_equal(curve.steps, [10, 20])
    np.testing.assert_allclose(curve.seconds, [10, 20])
    np.testing.assert_array_equal(curve.values, [0.5, 0.25])


def test_a_pause_and_steps_done_again_do_not_count(tmp_path):
    """Killed after step 30, resumed an hour later from the checkpoint of step 20."""
    events(tmp_path, rows("a", (9, 10.0, 1.0), (19, 20.0, 2.0), (29, 30.0, 3.0)))
    events(tmp_path, rows("a", (29, 7.0, 3.5), (39, 17.0, 4.0)), START + 3600, resumed=21)
    curve = read_scalars(tmp_path, ["a"])["a"]
    np.testing.assert_array_equal(curve.steps, [10, 20, 30, 40])
    np.testing.assert_allclose(curve.seconds, [10, 20, 27, 37])
    np.testing.assert_array_equal(curve.values, [1, 2, 3.5, 4])


def test_what_was_logged_beyond_the_checkpoint_goes_even_if_not_logged_again(tmp_path):
    events(tmp_path, rows("a", (9, 10.0, 1.0)) + rows("b", (14, 15.0, 9.0)))
    events(tmp_path, rows("a", (19, 10.0, 2.0)), START + 50, resumed=11)
    found = read_scalars(tmp_path, ["a", "b"])
    assert list(found) == ["a"]
    np.testing.assert_allclose(found["a"].seconds, [10, 20])


def test_a_torn_file_gives_what_is_whole(tmp_path):
    path = events(tmp_path, rows("a", *((i, float(i), float(i)) for i in range(50))))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    curve = read_scalars(tmp_path, ["a"])["a"]
    assert 20 <= len(curve.steps) <= 30
    np.testing.assert_array_equal(curve.values, curve.steps - 1)
    path.write_bytes(b"nothing of the kind" * 9)
    assert read_scalars(tmp_path, ["a"]) == {}
    assert read_scalars(tmp_path / "missing", ["a"]) == {}

import statistics

import numpy as np
import pytest

from ddiff.pages.report.figures import (
    THINNED,
    Series,
    averaged,
    cells_of,
    columns_of,
    over_evaluations,
    over_lengths,
    over_training,
)
from ddiff.pages.report.records import read_run
from tests.pages.report.made import evaluate, events, figure, run


def series(steps, values, pace=1.0):
    steps, values = np.array(steps, float), np.array(values, float)
    unknown = np.full(len(steps), np.nan)
    return Series(steps, pace * steps, 8 * steps, values, unknown, unknown)


def test_the_mean_over_seeds_is_at_the_steps_that_all_have():
    lines = [series([10, 20, 30], [1, 2, 3], 1.0), series([20, 25, 30], [4, 5, 7], 2.0)]
    mean = averaged(lines)
    np.testing.assert_array_equal(mean.steps, [20, 30])
    np.testing.assert_allclose(mean.seconds, [30, 45])
    np.testing.assert_allclose(mean.images, [160, 240])
    np.testing.assert_allclose(mean.values, [3, 5])
    stds = [statistics.stdev(pair) for pair in ((2, 4), (3, 7))]
    np.testing.assert_allclose(mean.high - mean.values, stds)
    np.testing.assert_allclose(mean.values - mean.low, stds)


def test_one_seed_is_itself_and_strangers_have_no_mean():
    line = series([1, 2], [1, 2])
    assert averaged([line]) is line
    assert averaged([]) is None
    assert averaged([line, series([3], [1])]) is None


def test_a_long_line_is_averaged_in_stretches(tmp_path):
    path = run(tmp_path / "a")
    for file in (path / "tensorboard").iterdir():
        file.unlink()
    count = 3 * THINNED
    rows = [("train/loss", i, float(i + 1), float(i)) for i in range(count)]
    events(path / "tensorboard", rows)
    record = read_run(path)
    line = over_training(record.curves["train/loss"], record.images_per_step)
    assert len(line.values) == THINNED
    np.testing.assert_allclose(line.values[:2], [1, 4])
    np.testing.assert_allclose(line.steps[:2], [2, 5])
    np.testing.assert_allclose(line.images, 8 * line.steps)
    assert line.values.mean() == pytest.approx((count - 1) / 2)


def test_a_figure_over_training_keeps_to_one_way_of_sampling(tmp_path):
    path = run(tmp_path / "a")
    for step, value in ((10, 9.0), (20, 6.0), (40, 4.0)):
        evaluate(path, f"step_{step}", [figure(value=value, low=value - 1, high=value + 2)], step)
    evaluate(path, "a_quick", [figure(value=99.0)], num_steps=5)
    record = read_run(path)
    column = columns_of([record.points])[0]
    (cell,) = cells_of([record.points], column)
    line = over_evaluations(record.points, cell)
    np.testing.assert_array_equal(line.steps, [10, 20, 40])
    np.testing.assert_array_equal(line.values, [9, 6, 4])
    np.testing.assert_array_equal(line.low, [8, 5, 3])
    np.testing.assert_allclose(line.seconds, [2.5, 5, 10])


def test_a_figure_over_lengths_keeps_to_the_newest_weights_and_to_one_way(tmp_path):
    path = run(tmp_path / "a")
    for length, value in ((0.2, 5.0), (0.05, 3.0), (0.1, 2.0)):
        interval = {"low": value - 1, "high": value + 2}
        evaluate(path, f"a{length}", [figure(value=value, **interval)], weights=length)
        evaluate(path, f"old{length}", [figure(value=9.0)], 20, weights=length)
    evaluate(path, "ema", [figure(value=4.0)], weights="ema")
    evaluate(path, "quick", [figure(value=99.0)], num_steps=5, weights=0.3)
    points = read_run(path).points
    column = columns_of([points])[0]
    line = over_lengths(points, column)
    np.testing.assert_array_equal(line.steps, [0.05, 0.1, 0.2])
    np.testing.assert_array_equal(line.values, [3, 2, 5])
    np.testing.assert_array_equal(line.low, [2, 1, 4])
    assert over_lengths([p for p in points if p.length == 0.1], column) is None

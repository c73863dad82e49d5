import random
import statistics

import pytest

from ddiff.pages.report.figures import cells_of, columns_of, front, spread
from ddiff.pages.report.records import read_run
from tests.pages.report.made import evaluate, figure, run


def brute(points, better):
    """Straight from the definition."""
    sign = 1 if better == "lower" else -1

    def beats(p, q):
        no_worse = p[0] <= q[0] and sign * p[1] <= sign * q[1]
        return no_worse and (p[0] < q[0] or sign * p[1] < sign * q[1])

    return [not any(beats(p, q) for p in points) for q in points]


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("seed", range(40))
def test_the_front_is_what_nothing_beats(better, seed):
    draw = random.Random(seed)
    places = 4 if seed % 2 else 1000  # few places: many ties
    points = [(draw.randrange(places), draw.randrange(places)) for _ in range(1 + seed)]
    assert front(points, better) == brute(points, better)


def test_spread_is_mean_and_standard_deviation():
    values = [3.0, 4.5, 9.25]
    mean, std = spread(values)
    assert mean == pytest.approx(statistics.mean(values))
    assert std == pytest.approx(statistics.stdev(values))
    assert spread([2.0]) == (2.0, None)


def test_protocols_never_share_a_column(tmp_path):
    paths = [run(tmp_path / str(i), seed=i) for i in range(2)]
    other = {"protocol": {"reference": "B"}, "protocol_id": "bbbbbb"}
    evaluate(paths[0], "a", [figure(value=3.0), figure(value=30.0, **other)])
    evaluate(paths[1], "a", [figure(value=31.0, **other), figure("kid", 1.0)])
    runs = [read_run(path).points for path in paths]
    columns = columns_of(runs)
    assert [c.title for c in columns] == ["fid (1)", "fid (2)", "kid", "val/loss"]
    assert [c.protocol for c in columns[:2]] == [
        "lower is better; n = 100; reference A",
        "lower is better; n = 100; reference B",
    ]
    table = [[c and c.value for c in cells_of(runs, column)] for column in columns[:3]]
    assert table == [[3.0, None], [30.0, 31.0], [None, 1.0]]


def test_validation_losses_of_other_objectives_are_other_columns(tmp_path):
    eps = "ddiff.diffusion.objectives.Eps"
    changes = [{"seed": 1}, {"seed": 2, "objective__weighting": "p2"}, {"objective___target_": eps}]
    runs = [read_run(run(tmp_path / str(i), **c)).points for i, c in enumerate(changes)]
    first, second = columns_of(runs)
    assert "objective V" in first.protocol
    assert "objective Eps" in second.protocol
    pairs = [cells_of(runs, column) for column in (first, second)]
    values = [[c and round(c.value, 3) for c in cells] for cells in pairs]
    assert values == [[0.3, 0.3, None], [None, None, 0.3]]


def test_a_cell_is_of_the_newest_weights_sampled_as_most_runs_are(tmp_path):
    paths = [run(tmp_path / str(i), seed=i) for i in range(3)]
    for i, path in enumerate(paths):
        evaluate(path, "early", [figure(value=50.0)], step=20)
        evaluate(path, "ddim50", [figure(value=5.0 + i)])
    evaluate(paths[0], "ddim10", [figure(value=1.0)], num_steps=10)
    evaluate(paths[0], "a_guided", [figure(value=2.0)], guidance=2.0)
    runs = [read_run(path).points for path in paths]
    cells = cells_of(runs, columns_of(runs)[0])
    assert [cell.value for cell in cells] == [5.0, 6.0, 7.0]
    assert {cell.way for cell in cells} == {"ddim 50"}


def test_a_figure_that_is_no_number_makes_no_column(tmp_path):
    path = run(tmp_path / "a")
    evaluate(path, "a", [figure(value=float("nan")), figure("kid", 2.0)])
    assert [c.title for c in columns_of([read_run(path).points])] == ["kid", "val/loss"]


def test_what_an_evaluation_cost(tmp_path):
    path = run(tmp_path / "a")
    evaluate(path, "clocked", [figure()], step=20, seconds=99.0)
    evaluate(path, "strange", [figure()], step=None)
    evaluate(path, "unclocked", [figure()], step=20)
    clocked, strange, unclocked = (p.costs for p in read_run(path).points if p.name == "fid")
    assert clocked == {"seconds": 99.0, "images": 160.0, "evaluations": 50.0, "per_sample": 0.5,
                       "memory": 500.0}  # fmt: skip
    assert (strange["seconds"], strange["images"]) == (None, None)
    assert unclocked["seconds"] == pytest.approx(5.0)


def test_a_way_of_sampling_in_words(tmp_path):
    path = run(tmp_path / "a")
    evaluate(path, "a", [figure()], guidance=1.5, weights="net", precision="bf16")
    evaluate(path, "b", [figure()], guidance=0, weights="ema")
    assert [p.way for p in read_run(path).points if p.name == "fid"] == [
        "ddim 50 w=1.5 net weights bf16",
        "ddim 50",
    ]

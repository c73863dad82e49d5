import pytest

from ddiff.pages.report.records import read_run
from ddiff.system.errors import DdiffError
from tests.pages.report.made import evaluate, figure, run


def test_a_run_is_read_whole(tmp_path):
    path = run(tmp_path / "a", seed=3)
    evaluate(path, "b", [figure(low=2.5, high=3.5)], seconds=7.5)
    evaluate(path, "a", [figure("accuracy", 0.9, better="higher")], step=20)
    record = read_run(path)
    assert (record.seed, record.step, record.seconds, record.state) == (3, 40, 10.0, "finished")
    assert (record.samples_per_second, record.memory_mb, record.images_per_step) == (32, 500, 8)
    first, second = (point for point in record.points if point.name != "val/loss")
    assert (first.step, first.costs["images"], first.costs["seconds"]) == (20, 160, 5)
    assert (second.value, second.low, second.costs["seconds"]) == (3, 2.5, 7.5)
    assert record.seconds_at(10) == pytest.approx(2.5)
    assert record.troubles == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"trainer__accumulate_grad_batches": 4}, 32),
        ({"trainer__devices": 2, "trainer__num_nodes": 3}, 48),
        ({"trainer__devices": "0,3"}, 16),
        ({"trainer__devices": "auto"}, 8),
        ({"trainer__devices": "auto", "trainer__accelerator": "gpu"}, None),
    ],
)
def test_images_a_step(tmp_path, options, expected):
    assert read_run(run(tmp_path / "a", **options)).images_per_step == expected


def test_an_evaluation_tells_what_auto_devices_were(tmp_path):
    path = run(tmp_path / "a", trainer__devices="auto", trainer__accelerator="gpu")
    evaluate(path, "a", [figure()], step=10)
    assert read_run(path).images_per_step == 8


def test_what_is_broken_is_said_and_the_rest_read(tmp_path):
    path = run(tmp_path / "a")
    (path / "metrics.json").write_text('{"val/lo')
    (path / "environment.json").write_text("[1]")
    evaluate(path, "good", [figure()])
    evaluate(path, "nameless", [{"value": 3}])
    (path / "evaluations/list.json").write_text("[]")
    (path / "evaluations/torn.json").write_text("{")
    record = read_run(path)
    assert {point.evaluation for point in record.points} == {"good", "val/loss"}
    said = "\n".join(record.troubles)
    for words in ("metrics.json cannot", "environment.json holds", "nameless.json is not",
                  "list.json holds", "torn.json cannot"):  # fmt: skip
        assert words in said
    assert len(record.troubles) == 5


def test_an_unfinished_run_says_how_far_it_came(tmp_path):
    path = run(tmp_path / "a", budget__max_steps=100)
    (path / "metrics.json").unlink()
    record = read_run(path)
    assert record.state == "unfinished: step 40 of 100"
    assert record.troubles == ["unfinished: no metrics.json"]


def test_a_run_that_logged_nothing(tmp_path):
    path = run(tmp_path / "a")
    (path / "metrics.json").unlink()
    for file in (path / "tensorboard").iterdir():
        file.unlink()
    record = read_run(path)
    assert (record.step, record.seconds, record.seconds_at(10)) == (0, None, None)


@pytest.mark.parametrize("text", ["a: [1, {", "", "- 1", "a: ${nowhere}", "\x00"])
def test_without_a_config_there_is_no_run(tmp_path, text):
    path = run(tmp_path / "a")
    (path / "config.yaml").write_text(text)
    with pytest.raises(DdiffError, match=r"config\.yaml"):
        read_run(path)


def test_what_is_no_number_is_none(tmp_path):
    path = run(tmp_path / "a")
    nan, infinite = figure(value=float("nan")), figure("kid", float("inf"), high=float("nan"))
    evaluate(path, "a", [nan, infinite, figure("text", "3"), figure("none", None)])
    assert [p.value for p in read_run(path).points if p.name != "val/loss"] == [None] * 4


def test_a_stranger_s_config_is_no_crash(tmp_path):
    path = run(tmp_path / "a")
    (path / "config.yaml").write_text("budget: {max_steps: many}\ndata: {batch_size: [1, 2]}\n")
    record = read_run(path)
    assert (record.max_steps, record.images_per_step, record.seed) == (0, None, None)

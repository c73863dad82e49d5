from made import run

from ddiff.reporting.configs import differing, grouped, labelled
from ddiff.reporting.records import read_run


def groups_of(tmp_path, *changes):
    runs = [read_run(run(tmp_path / str(i), **change)) for i, change in enumerate(changes)]
    return grouped(runs)


def test_runs_that_differ_in_their_seed_are_a_group(tmp_path):
    top = {"timesteps___target_": "ddiff.diffusion.timesteps.OnlineTopK", "timesteps__k": 0.5}
    changes = [{"seed": 1}, {**top, "seed": 1}, {"seed": 2}, {**top, "seed": 2, "run_dir": "x"}]
    groups, differences = groups_of(tmp_path, *changes)
    assert [g.label for g in groups] == ["Uniform", "OnlineTopK"]
    assert [[r.seed for r in g.runs] for g in groups] == [[1, 2], [1, 2]]
    assert [(d.title, d.values, d.implied) for d in differences] == [
        ("timesteps", ["Uniform", "OnlineTopK"], False),
        ("timesteps.k", ["–", 0.5], True),
    ]


def test_data_of_another_seed_than_the_run_is_a_difference(tmp_path):
    groups, differences = groups_of(tmp_path, {"seed": 1}, {"seed": 2, "data__seed": 5})
    assert len(groups) == 2
    assert [d.names for d in differences] == [["data.seed"]]


def test_one_run_differs_in_nothing(tmp_path):
    groups, differences = groups_of(tmp_path, {"seed": 1})
    assert ([g.label for g in groups], differences) == (["digits_cfg"], [])


def test_options_that_go_together_are_one_line():
    configs = [
        {"budget.max_steps": n, "trainer.max_steps": n, "lr_schedule.total_steps": n, "same": 1}
        for n in (10, 20)
    ]
    (difference,) = differing(configs)
    assert difference.names == [
        "budget.max_steps",
        "trainer.max_steps",
        "lr_schedule.total_steps",
    ]


def test_a_number_that_varies_within_one_target_is_a_choice():
    configs = [
        {"net._target_": "a.UNet", "net.width": 8, "net.blocks": 2},
        {"net._target_": "a.UNet", "net.width": 16, "net.blocks": 2},
        {"net._target_": "a.Plain", "net.width": 8},
    ]
    assert [(d.title, d.implied) for d in differing(configs)] == [
        ("net", False),
        ("net.width", False),
        ("net.blocks", True),
    ]


def test_labels_say_the_fewest_options_that_tell_runs_apart():
    configs = [
        {"name": "a", "net._target_": "x.UNet", "lr": lr, "clip": clip}
        for lr, clip in ((0.1, 1), (0.2, 2), (0.3, 2))
    ]
    assert labelled(differing(configs), ["a"] * 3) == ["lr=0.1", "lr=0.2", "lr=0.3"]


def test_a_number_that_most_share_goes_unsaid():
    targets = ["Uniform", "TopK", "TopK", "TopK"]
    configs = [
        {"name": "a", "t._target_": f"x.{target}", "t.bins": bins}
        for target, bins in zip(targets, (50, 50, 20, 10), strict=True)
    ]
    assert labelled(differing(configs), ["a"] * 4) == [
        "Uniform",
        "TopK",
        "TopK bins=20",
        "TopK bins=10",
    ]

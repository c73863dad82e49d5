import json

from ddiff.pages.report.configs import differing, grouped, labelled
from ddiff.pages.report.records import read_run
from tests.pages.report.made import run

TOP = {"timesteps___target_": "ddiff.diffusion.timesteps.OnlineTopK", "timesteps__k": 0.5}


def groups_of(tmp_path, *changes):
    runs = [read_run(run(tmp_path / str(i), **change)) for i, change in enumerate(changes)]
    groups, differences, _ = grouped(runs)
    return groups, differences


def labels_of(tmp_path, *runs):
    """Labels, and what all share, of runs given as (options of the command, changes of config)."""
    for i, (command, changes) in enumerate(runs):
        facts = {"command": ["train.py", *command]}
        (run(tmp_path / str(i), **changes) / "environment.json").write_text(json.dumps(facts))
    groups, _, shared = grouped([read_run(tmp_path / str(i)) for i in range(len(runs))])
    return [group.label for group in groups], shared


def test_a_label_tells_what_differs_from_the_recipe(tmp_path):
    """Names tell the runs apart; that one is not its recipe is said all the same."""
    command = ["experiment=voxel_adaptive", "net.patch_size=1", "seed=3", "run_dir=x"]
    labels, shared = labels_of(
        tmp_path,
        (command, {"name": "voxel_adaptive", "net__patch_size": 1}),
        ([], {"name": "voxel_baseline", "net__patch_size": 4}),
    )
    assert (labels, shared) == (["voxel_adaptive net.patch_size=1", "voxel_baseline"], [])


def test_a_single_run_tells_it_too(tmp_path):
    labels, shared = labels_of(
        tmp_path, (["net.patch_size=1", "trainer=cpu"], {"net__patch_size": 1})
    )
    assert (labels, shared) == (["digits_cfg net.patch_size=1"], [])


def test_what_all_changed_is_said_once(tmp_path):
    steps = {"budget__max_steps": 20}
    labels, shared = labels_of(
        tmp_path,
        (["budget.max_steps=20"], steps),
        (["budget.max_steps=20", "timesteps=online_topk"], {**steps, **TOP}),
    )
    assert (labels, shared) == (["Uniform", "OnlineTopK"], ["budget.max_steps=20"])


def test_what_most_share_is_said_of_a_run_that_changed_it(tmp_path):
    """Three of four runs have size 8, which goes unsaid, but of the one whose recipe has 16."""
    labels, _ = labels_of(
        tmp_path,
        (["data.size=8"], {"name": "a"}),
        ([], {"name": "b"}),
        ([], {"name": "c"}),
        ([], {"name": "d", "data__size": 16}),
    )
    assert labels == ["a data.size=8", "b", "c", "d"]


def test_a_list_that_the_label_tells_is_told_once(tmp_path):
    labels, _ = labels_of(
        tmp_path,
        (["net.channels=[8,16]"], {"net__channels": [8, 16]}),
        (["net.channels=[8,32]"], {"net__channels": [8, 32]}),
    )
    assert labels == ["channels=[8, 16]", "channels=[8, 32]"]


def test_a_label_stays_short(tmp_path):
    sizes = {f"net__option_{i}": 7 for i in range(9)}
    command = [f"net.option_{i}=7" for i in range(9)]
    labels, _ = labels_of(tmp_path, (command, {"name": "a", **sizes}), ([], {"name": "b"}))
    assert labels == ["a net.option_0=7 net.option_1=7 net.option_2=7 and 6 more", "b"]


def test_runs_that_differ_in_their_seed_are_a_group(tmp_path):
    changes = [{"seed": 1}, {**TOP, "seed": 1}, {"seed": 2}, {**TOP, "seed": 2, "run_dir": "x"}]
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

"""Plans: what the options of a study mean, and what is refused."""

import pytest
from hydra import compose, initialize_config_module

from ddiff.config.options import Study, typed
from ddiff.study.calibration import drawings
from ddiff.study.figures import metrics_for
from ddiff.study.plan import Plan, amount, fit_of, merged, plan_of, slug, variants_of
from ddiff.system.errors import ConfigError

TWO = "{cosine: schedule=cosine, linear: schedule=linear}"


def plan(*more: str, name: str | None = None, **given: object) -> Plan:
    options = {
        "engine": None, "base": "experiment=digits_cfg", "vary": TWO, "seeds": 2, "equal": "steps",
        "budget": 100, "measure": [], "decide": "val/loss", "better": "auto", "num_samples": 10,
        "confidence": 0.95, "race": None, "trained": None, "out": None, "publish": None,
        "retry": False, "do": "run",
    }  # fmt: skip
    assert given.keys() <= options.keys()
    return plan_of(Study(**{**options, **given}), name, more)


def test_variants_by_name_and_by_combination() -> None:
    assert variants_of(TWO) == {"cosine": ["schedule=cosine"], "linear": ["schedule=linear"]}
    assert variants_of({"a": "x=1 y='two words'", "b": None}) == {
        "a": ["x=1", "y=two words"],
        "b": [],
    }
    grid = variants_of("{schedule: [linear, cosine], optimizer.lr: [0.1, 0.2]}")
    assert list(grid) == ["linear 0.1", "linear 0.2", "cosine 0.1", "cosine 0.2"]
    assert grid["cosine 0.1"] == ["schedule=cosine", "optimizer.lr=0.1"]


def test_a_plan_of_trainings() -> None:
    found = plan("budget.batch_size=8", seeds=[3, 1])
    assert [v.name for v in found.variants] == ["cosine", "linear"]
    assert [t.words for t in found.trainings] == [
        ("experiment=digits_cfg", "budget.batch_size=8", "schedule=cosine"),
        ("experiment=digits_cfg", "budget.batch_size=8", "schedule=linear"),
    ]
    assert {t.batch for t in found.trainings} == {8}
    assert found.seeds == (3, 1)
    assert found.name == "digits_cfg_cosine_linear"
    assert found.trainings[0].loss != found.trainings[1].loss
    assert plan(name="timesteps").name == "timesteps"


def test_ways_of_drawing_share_a_training() -> None:
    vary = "{ddim: solver=ddim solver.num_steps=5, sde: solver=dpmpp_2m_sde, free: guidance=none}"
    found = plan(vary=vary, decide="fid")
    (training,) = found.trainings
    assert training.words == ("experiment=digits_cfg",)
    assert [v.drawing for v in found.variants] == [
        ("solver=ddim", "solver.num_steps=5"), ("solver=dpmpp_2m_sde",), ("guidance=none",)
    ]  # fmt: skip
    assert found.variants_of(training.name) == list(found.variants)


def test_averages_of_a_training_are_ways_of_drawing() -> None:
    base = "experiment=digits_cfg callbacks=power_averages"
    found = plan(base=base, vary="{ema: weights=ema, short: weights=0.02}", decide="fid")
    (training,) = found.trainings
    assert training.words == ("experiment=digits_cfg", "callbacks=power_averages")
    assert [v.drawing for v in found.variants] == [("weights=ema",), ("weights=0.02",)]


def test_plans_that_are_fitted_are_ways_of_drawing() -> None:
    vary = "{ddim: solver=ddim, learned: guidance.scale=2 plan.num_steps=3 plan.solver=ddim}"
    found = plan(vary=vary, decide="fid")
    assert [t.words for t in found.trainings] == [("experiment=digits_cfg",)]
    assert fit_of(found.variants[0].drawing) == []
    assert fit_of(found.variants[1].drawing) == ["guidance.scale=2", "num_steps=3", "solver=ddim"]


def test_completing_held_out_samples_is_a_way_of_drawing() -> None:
    base = "experiment=digits_cfg from_image=held_out inpaint=half y=none"
    found = plan(base=base, vary="{a: {}, b: solver=ddpm jumps=2}", decide="psnr")
    assert [t.words for t in found.trainings] == [("experiment=digits_cfg",)]
    given = ("from_image=held_out", "inpaint=half", "y=none")
    assert [v.drawing for v in found.variants] == [given, (*given, "solver=ddpm", "jumps=2")]


def test_losses_are_one_quantity_where_the_weighting_alone_differs() -> None:
    found = plan(vary="{plain: objective=eps, snr: objective=eps objective.weighting=min_snr}")
    assert found.trainings[0].loss == found.trainings[1].loss


def test_data_of_one_s_own_bring_the_recipe_that_suits_them(tmp_path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.png").write_bytes(b"")
    found = plan("data=images", f"data.root={tmp_path}", "data.size=8")
    words = found.trainings[0].words
    assert words[:2] == ("experiment=pictures", "module=conditional_ddpm")
    assert "experiment=digits_cfg" not in words
    kept = plan("data=images", f"data.root={tmp_path}", "data.size=8", "experiment=digits_cfg")
    assert "experiment=digits_cfg" in kept.trainings[0].words


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["averages", "flows", "guidance", "inpainting", "solvers", "upscaling"]
)
def test_a_prepared_study_can_be_planned(name: str) -> None:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        found = plan_of(typed(Study, compose("study", [f"study={name}"])), name)
    assert len(found.variants) > 1
    most = found.budget if found.equal == "evaluations" else None
    drawn = drawings({v.name: [*v.said] for v in found.variants if v.drawing}, most)
    assert not [name for name, one in drawn.items() if "why" in one]
    if most:
        assert all(most / 2 < one["evaluations"] <= most for one in drawn.values())


def test_later_options_replace_earlier_ones() -> None:
    assert merged(["a=1", "b=2"], ["a=3"], ["+c.d=4"]) == ["b=2", "a=3", "+c.d=4"]


@pytest.mark.parametrize(
    ("text", "equal", "value"),
    [("60s", "time", 60), ("5min", "time", 300), ("1.5h", "time", 5400), ("300", "steps", 300),
     (2e4, "samples", 20000), (10, "evaluations", 10)],
)  # fmt: skip
def test_budgets(text: object, equal: str, value: float) -> None:
    assert amount(text, equal) == value


MISTAKES = {
    "a time without a unit": ({"equal": "time", "budget": 60}, "budget: 60 is not a time"),
    "steps with a unit": ({"budget": "60s"}, "budget: '60s' is not a number of steps"),
    "no budget at all": ({"budget": 0}, "budget: 0 is not"),
    "the study's own seed": ({"base": "experiment=digits_cfg seed=1"}, "seed is the study's"),
    "its own steps": ({"base": "budget.max_steps=1"}, "max_steps is the study's to say: budget="),
    "an option that is none": ({"base": "experiment"}, "'experiment' is not an option"),
    "an unknown option": ({"vary": "{a: net.chanels=1, b: net=unet}"}, "a: net.chanels: no such"),
    "an unknown choice": ({"vary": "{a: schedule=cosin}"}, "a: schedule: there is no 'cosin'"),
    "an unknown solver": ({"vary": "{a: solver=x, b: {}}"}, "a: solver: there is no 'x'"),
    "no variants": ({"vary": "{}"}, "vary: needs"),
    "not YAML": ({"vary": "{a: b=[1]}"}, "brackets need quotes: {few: 'net.channels=[8,16]'}"),
    "half a grid": ({"vary": "{a: [1], b: c=1}"}, "vary: either every entry"),
    "one folder": ({"vary": "{a b: schedule=linear, a/b: schedule=cosine}"}, "not different"),
    "a figure that is none": ({"decide": "fidd"}, "no figure 'fidd'; did you mean 'fid'"),
    "loss of one training": (
        {"vary": "{a: solver=ddim, b: solver=ddpm}"}, "decide: val/loss is of the training",
    ),
    "a race without a share": ({"race": {"rungs": [0.5]}}, "race: needs rungs and share"),
    "a race that falls": ({"race": {"rungs": [0.5, 0.2], "share": 0.5}}, "do not rise"),
    "a race past the end": ({"race": {"rungs": [1.5], "share": 0.5}}, "parts between 0 and 1"),
    "nobody to keep": (
        {"race": {"rungs": [0.5], "share": 0.5, "keep": ["x"]}}, "keep='x' is none of cosine",
    ),
    "an average that is not kept": (
        {"vary": "{a: weights=0.1, b: weights=ema}", "decide": "fid"},
        "a: weights=0.1 needs callbacks=power_averages",
    ),
    "a plan of no such option": (
        {"vary": "{a: plan.num_step=5}", "decide": "fid"}, "a: plan.num_step: ",
    ),
    "a plan without an option": ({"vary": "{a: plan=5}", "decide": "fid"}, "as plan.num_steps=5"),
    "a jump that is none": (
        {"vary": "{a: from_image=held_out jumps=-1}", "decide": "fid"}, "a: jumps: -1",
    ),
    "pairs of nothing": (
        {"vary": "{a: solver=ddim, b: solver=ddpm}", "decide": "psnr"},
        "a: psnr compares a sample with what it was made from: from_image=held_out",
    ),
    "one version": (
        {"vary": "{a: from_image=held_out, b: {}}", "decide": "crps"}, "a: crps is of several",
    ),
    "better of one's own": ({"decide": "mine:score"}, "better: it is not known for mine:score"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case: str) -> None:
    given, message = MISTAKES[case]
    with pytest.raises(ConfigError) as raised:
        plan(**given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_metrics_of_figures() -> None:
    assert metrics_for(["val/loss", "fid", "recall", "coverage", "mine:score"]) == [
        "fid", "precision_recall", "mine"
    ]  # fmt: skip


def test_names_of_folders() -> None:
    assert slug("top-K exact (50%)") == "top-K_exact_50"

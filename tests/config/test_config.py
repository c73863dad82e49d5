"""Every option of every group composes and builds; validation finds what is wrong."""

import inspect
import time
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

import ddiff.conf
from ddiff.build import build_plan
from ddiff.config.options import FOREIGN, INSTEAD, Train, or_null, typed
from ddiff.config.resolvers import KNOWN
from ddiff.config.targets import GROUPS, build, locate
from ddiff.config.trees import origin, resolved
from ddiff.config.validation import MANY, mismatch, validate
from ddiff.diffusion.plans import written
from ddiff.diffusion.schedules import cosine
from ddiff.diffusion.solvers import ddim
from ddiff.system.bounds import At, Filled, Like
from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.files import write_json
from ddiff.system.precision import Precision
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules import DDPM

CONF = Path(next(iter(ddiff.conf.__path__)))
FILES = {
    "images",
    "voxels",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "latent",
}  # need files on the disk
OPTIONS = [
    (group, path.stem)
    for group in [*GROUPS, "net/embedding"]
    for path in sorted((CONF / group).glob("*.yaml"))
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        return resolved(compose("train", list(overrides)))


def test_every_group_is_listed() -> None:
    folders = {p.name for p in CONF.iterdir() if p.is_dir() and p.name[0] not in "._"}
    assert folders == {*GROUPS, "experiment", "debug", "study"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_builds(group: str, option: str, tmp_path: Path) -> None:
    overrides = [f"{group}=[{option}]" if group in MANY else f"{group}={option}"]
    if group in ("format", "engine"):
        overrides = [f"+{overrides[0]}"]  # not of a training
    if option in ("reader", "classifier"):
        overrides += ["experiment=classifier"]
    if option == "autoencoder":
        overrides += ["experiment=autoencoder"]
    if option in ("images", "voxels"):
        overrides += ["data.root=somewhere", "data.size=16"]
    if option == "latent":
        overrides += ["experiment=digits_latent", "data.run=somewhere", "data@data.of=digits"]
    elif group == "data":
        overrides += ["experiment=volumes" if KNOWN[option].dims == 3 else "experiment=pictures"]
    if option in (
        "simple2d",
        "rawtime2d",
        "unet_tiny",
        "unet_small",
        "unet_ddpm_cifar10",
        "dit_tiny",
    ):
        overrides += ["experiment=pictures", "data.size=32"]
    if group == "net" and option.startswith("dit"):
        overrides += ["optimizer=adamw"]  # the default, muon, is for convolutions
    if option == "precomputed_topk":
        overrides += [f"timesteps.path={tmp_path / 'scores.json'}"]
    if (group, option) == ("timesteps", "all"):
        overrides += ["schedule=cosine", "schedule.T=100"]
    if option == "few":
        overrides += ["solver.num_steps=2"]  # the recipe of the default has 40
    if option == "learned":
        overrides += ["experiment=digits_ddpm", f"solver.path={tmp_path / 'plan.json'}"]
        plan = written(ddim(cosine(), 3), {"objective": "v"})
        write_json(tmp_path / "plan.json", {"plan": plan})
    cfg = composed(*overrides)
    validate(cfg)
    if group == "data" and option in FILES:
        return  # built on true files in tests/data
    if group == "metrics":
        for name, node in cfg.metrics.items():
            if name != "auto":
                assert type(build(node)).__name__ == str(node._target_).rpartition(".")[2]
    cfg = typed(Train, cfg)
    fill_in_data_facts(cfg, build(cfg.data)) if option != "conditional_ddpm" else None
    if option == "conditional_ddpm":
        cfg.net.shape, cfg.net.num_classes = [1, 64, 64, 64], 6
    if option == "precomputed_topk":
        write_json(tmp_path / "scores.json", {"origin": origin(cfg), "score": [1.0, 2.0]})
    if (group, option) == ("backend", "tensorrt"):
        with pytest.raises(DdiffError, match="cannot train"):
            build_module(cfg, Precision("float32"))
        return
    if option in ("gpu", "ddp") and not torch.cuda.is_available():
        with pytest.raises(DdiffError, match="there is no gpu here"):
            build_module(cfg, Precision("float32"))
        return
    module = build_module(cfg, Precision("float32"))
    if isinstance(module, DDPM):
        plan = build_plan(cfg.solver, module.schedule)
        assert plan.table(module.objective).isfinite().all()
    assert module.configure_optimizers()["optimizer"].param_groups[0]["lr"] > 0


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_experiment_has_the_name_of_its_file(path: Path, tmp_path: Path) -> None:
    encoder = {"net": {"shape": [1, 8, 8], "channels": [8, 8], "patch_size": 1}}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(encoder)))
    latent = "latent" in path.stem
    more = [f"data.run={tmp_path}", "data@data.of=digits"] if latent else []
    cfg = composed(f"experiment={path.stem}", *more)
    validate(cfg)
    assert cfg.name == {"pictures": "digits", "volumes": "spheres"}.get(path.stem, path.stem)
    assert cfg.trainer.max_steps == cfg.budget.max_steps > 100
    smoke = composed(f"experiment={path.stem}", *more, "trainer=smoke")
    assert smoke.trainer.max_steps == 4
    assert smoke.lr_schedule.get("total_steps", 4) == 4


def test_every_yaml_says_what_it_is() -> None:
    for path in CONF.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        about = lines[1] if lines[0].startswith("# @package") else lines[0]
        assert about.startswith(f"# conf/{path.relative_to(CONF)} : "), path


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True),
        (1, float, True),
        (1.5, int, False),
        (True, int, False),
        (True, bool, True),
        ("a", str, True),
        (None, int | None, True),
        ("x", int | None, False),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ("12", list[int], False),
        (3, object, True),
        (float("nan"), float, False),
        (float("inf"), float | None, False),
        (10**400, float, False),
        ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False),
        ([1, 2], tuple[int, ...], True),
        ({"a": 1}, dict[str, int], True),
        ("a", dict[str, int] | None, False),
        (3, torch.Tensor | float, True),
        ("abc", torch.Tensor | float, False),
        ("abc", torch.nn.Module, False),
        (0, Annotated[int, At(least=0, below=1)], True),
        (1, Annotated[int, At(least=0, below=1)], False),
        (-1, or_null(Annotated[int, At(least=0)]), False),
        (None, or_null(Annotated[int, At(least=0)]), True),
        (float("nan"), Annotated[float, At(least=0)], False),
        ([], Annotated[list[int], Filled()], False),
        ("1:2", Annotated[str, Like(r"\d\d:\d\d", "MM:SS")], False),
        ("01:02", Annotated[str, Like(r"\d\d:\d\d", "MM:SS")], True),
    ],
)
def test_types(value: object, hint: object, fits: bool) -> None:
    assert (mismatch(value, hint) is None) == fits


def test_without_bounds_only_types_count() -> None:
    """So that what was trained before an option had bounds can still be sampled from."""
    cfg = composed("sampling.clamp=-1", "trainer.gradient_clip_val=-1")
    cfg.timesteps.bins = 10**6
    cfg.anything = 1
    validate(cfg, bounds=False)
    with pytest.raises(ConfigError, match=r"sampling\.clamp.*timesteps\.bins"):
        validate(cfg)
    with pytest.raises(ConfigError) as caught:  # of a run that is resumed, what it was trained with
        validate(cfg, unbounded={"timesteps.bins", "trainer.gradient_clip_val"})
    assert str(caught.value) == "sampling.clamp: -1 is not above 0"


def test_the_trainer_s_table_holds_every_option_of_its_files_and_only_true_ones() -> None:
    table = FOREIGN["lightning.pytorch"].keys()
    signature = inspect.signature(Trainer.__init__).parameters
    assert table <= signature.keys()
    assert INSTEAD.keys() <= signature.keys()
    assert set(composed().trainer) - {"_target_"} <= table


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": "${b}", "b": "${a}"}, "refers to itself"),
        ({"a": {"b": "${.c}", "c": "${.b}"}}, "refers to itself"),
        ({"a": {"b": "${..a}"}}, "refers to itself"),
        (
            {"x0": [1] * 9, **{f"x{i + 1}": [f"${{x{i}}}"] * 9 for i in range(9)}},
            "more than 100000",
        ),
        ({"x0": "y" * 99, **{f"x{i + 1}": f"${{x{i}}}" * 9 for i in range(9)}}, "more than"),
    ],
)
def test_endless_configs_are_refused_at_once(tree: dict, words: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=words):
        resolved(OmegaConf.create(tree))
    assert time.perf_counter() - started < 2


def test_what_stands_in_two_places_is_not_endless() -> None:
    tree = {"a": [1, 2], "b": ["${a}", "${a}"], "c": {"d": "${..a[0]}", "e": "${.d}"}}
    assert resolved(OmegaConf.create(tree)).b == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "ddiff.nets.torch.load",
        "ddiff.nets.unet.F",
        "ddiff.nets._down",
        "ddiff.data.writing.write",
        "ddiff.nets",
        "builtins.eval",
        3,
    ],
)
def test_targets_come_from_public_names_of_our_packages(target: object) -> None:
    with pytest.raises(ValueError, match=r"not allowed|does not exist"):
        locate(target, ("ddiff.nets", "ddiff.data"))


def test_your_own_package_joins_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        locate("fractions.Fraction", ("ddiff.nets",))
    monkeypatch.setenv("DDIFF_TRUST", "fractions")
    assert locate("fractions.Fraction", ("ddiff.nets",))(1, 2) == 0.5


def test_all_mistakes_are_reported_together() -> None:
    cfg = composed()
    OmegaConf.update(cfg, "net.widht", 3, force_add=True)
    cfg.net.dropout = "much"
    cfg.schedule["_target_"] = "ddiff.diffusion.schedules.cosin"
    cfg.objective.weighting = 5
    with pytest.raises(ConfigError) as caught:
        validate(cfg)
    for words in (
        "net.widht: no such option",
        "net.dropout: 'much' is not a number",
        "did you mean 'cosine'",
        "objective.weighting: 5 is not one of none",
    ):
        assert words in str(caught.value)

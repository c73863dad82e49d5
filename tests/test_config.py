"""Every option of every group composes and builds; validation finds what is wrong."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

import ddiff.conf
from ddiff import build
from ddiff.config import GROUPS, MANY, locate, mismatch, origin, resolved, validate
from ddiff.errors import ConfigError, DdiffError
from ddiff.files import write_json
from ddiff.modules import DDPM
from ddiff.precision import Precision
from ddiff.recipe import KNOWN

CONF = Path(next(iter(ddiff.conf.__path__)))
FILES = {"images", "voxels", "mnist", "fashion_mnist", "cifar10"}  # need files on the disk
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
    assert folders == {*GROUPS, "experiment"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_builds(group: str, option: str, tmp_path: Path) -> None:
    overrides = [f"{group}=[{option}]" if group in MANY else f"{group}={option}"]
    if group == "format":
        overrides = [f"+{overrides[0]}"]  # of ddiff.export
    if option in ("reader", "classifier"):
        overrides += ["experiment=classifier"]
    if option in ("images", "voxels"):
        overrides += ["data.root=somewhere", "data.size=16"]
    if group == "data":
        overrides += ["experiment=volumes" if KNOWN[option].dims == 3 else "experiment=pictures"]
    if option in ("simple2d", "unet_tiny", "unet_small", "unet_ddpm_cifar10"):
        overrides += ["experiment=pictures", "data.size=32"]
    if option == "precomputed_topk":
        overrides += [f"timesteps.path={tmp_path / 'scores.json'}"]
    cfg = composed(*overrides)
    validate(cfg)
    if group == "data" and option in FILES:
        return  # built on true files in tests/data
    if group == "metrics":
        for name, node in cfg.metrics.items():
            assert name == "auto" or callable(build.build(node))
    build.fill_in_data_facts(cfg, build.build(cfg.data)) if option != "conditional_ddpm" else None
    if option == "conditional_ddpm":
        cfg.net.shape, cfg.net.num_classes = [1, 64, 64, 64], 6
    if option == "precomputed_topk":
        write_json(tmp_path / "scores.json", {"origin": origin(cfg), "score": [1.0, 2.0]})
    if (group, option) == ("backend", "tensorrt"):
        with pytest.raises(DdiffError, match="cannot train"):
            build.build_module(cfg, Precision("float32"))
        return
    if option in ("gpu", "ddp") and not torch.cuda.is_available():
        with pytest.raises(DdiffError, match="there is no gpu here"):
            build.build_module(cfg, Precision("float32"))
        return
    module = build.build_module(cfg, Precision("float32"))
    if isinstance(module, DDPM):
        plan = build.build_plan(cfg, module.schedule)
        assert plan.table(module.objective).isfinite().all()
    assert module.configure_optimizers()["optimizer"].param_groups[0]["lr"] > 0


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_experiment_has_the_name_of_its_file(path: Path) -> None:
    cfg = composed(f"experiment={path.stem}")
    validate(cfg)
    assert cfg.name == {"pictures": "digits", "volumes": "spheres"}.get(path.stem, path.stem)
    assert cfg.trainer.max_steps == cfg.budget.max_steps > 100
    smoke = composed(f"experiment={path.stem}", "trainer=smoke")
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
    ],
)
def test_types(value: object, hint: object, fits: bool) -> None:
    assert (mismatch(value, hint) is None) == fits


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

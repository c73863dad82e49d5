"""Rules of recipes: exact choices for known data, and files that mean what the choices say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from ddiff.build import build_net
from ddiff.config.targets import GROUPS
from ddiff.config.trees import resolved
from ddiff.config.validation import validate
from ddiff.recipes.advice import Choice, expectations, lengths, nets, parts
from ddiff.recipes.fingerprint import Fingerprint
from ddiff.recipes.writing import as_yaml
from ddiff.system.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
PHOTOS = Fingerprint(
    shape=(3, 32, 32), number=5000, looked_at=1024, law="bounded", colours=None, spread=0.5,
    agreeing=0.0, length=4.0, copies=0, near_copies=0, classes=None,
)  # fmt: skip
SOLIDS = replace(PHOTOS, shape=(1, 16, 16, 16), law="binary", colours=2, agreeing=0.3)
SCANS = replace(PHOTOS, shape=(1, 32, 32, 32), law="unbounded")
DIGITS = replace(PHOTOS, shape=(1, 8, 8), classes=10)


def said(choices: list[Choice]) -> dict[str, Any]:
    return {choice.option: choice.value for choice in choices}


PICTURE = {
    "objective": "v", "timesteps": "stratified", "optimizer": "muon", "optimizer.lr": 3e-3,
    "solver": "dpmpp_2m_sde", "solver.num_steps": 25, "guidance": "none",
}  # fmt: skip
VOLUME = {
    "objective": "x0", "timesteps": "stratified", "optimizer": "muon", "optimizer.lr": 3e-3,
    "solver": "dpmpp_2m", "solver.num_steps": 40, "solver.spacing": "trailing", "guidance": "none",
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (PHOTOS, {**PICTURE, "module": "ddpm", "schedule": "cosine"}),
        (DIGITS, {**PICTURE, "module": "conditional_ddpm", "schedule": "cosine"}),
        (replace(PHOTOS, shape=(3, 64, 64)),
         {**PICTURE, "module": "ddpm", "schedule": "shifted", "schedule.snr_factor": 0.25}),
        (SOLIDS, {**VOLUME, "module": "voxel_ddpm", "schedule": "shifted",
                  "schedule.snr_factor": 0.25}),
        (SCANS, {**VOLUME, "module": "ddpm", "schedule": "shifted",
                 "schedule.snr_factor": 0.03125}),
    ],
    ids=["photos", "digits", "64", "solids", "scans"],
)  # fmt: skip
def test_the_choices_follow_from_the_data(facts: Fingerprint, expected: dict[str, Any]) -> None:
    assert said(parts(facts)) == expected


def test_nets_become_cheaper() -> None:
    widths = [(said(net)["net.channels"], said(net).get("net.patch_size", 1))
              for net in nets(SOLIDS)]  # fmt: skip
    assert widths == [([32, 48, 64], 1), ([32, 64], 2), ([16, 32], 2)]
    widths = [(said(net)["net.channels"], "net.patch_size" in said(net)) for net in nets(PHOTOS)]
    assert widths == [([32, 64, 96], False), ([16, 32, 48], False)]
    with pytest.raises(ConfigError, match="data: 33x33 has too few factors of 2"):
        nets(replace(PHOTOS, shape=(3, 33, 33)))


@pytest.mark.parametrize("sides", [(8, 8), (28, 28), (32, 32), (128, 64), (8, 8, 8), (16, 24, 32)])
def test_every_net_can_be_built(sides: tuple[int, ...]) -> None:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        for net in nets(replace(PHOTOS, shape=(1, *sides))):
            cfg = compose("train", [choice.word for choice in net])
            cfg.net.shape = [1, *sides]
            with torch.device("meta"):
                made = build_net(resolved(cfg).net)(torch.zeros(1, 1, *sides), torch.zeros(1))
            assert made.shape == (1, 1, *sides)


def test_lengths_follow_from_the_steps() -> None:
    assert said(lengths(2000, 32)) == {
        "budget.max_steps": 2000, "budget.batch_size": 32, "budget.val_every": 200,
        "budget.sample_every": 1000, "lr_schedule": "warmup_cosine",
        "lr_schedule.warmup_steps": 100, "module.ema_decay": 0.995,
    }  # fmt: skip
    few = said(lengths(3, 1))
    assert (few["lr_schedule.warmup_steps"], few["module.ema_decay"]) == (1, 0.9)
    assert (few["budget.val_every"], few["budget.sample_every"]) == (1, 1)


def test_evidence_exists_and_every_choice_has_a_reason() -> None:
    for facts in (PHOTOS, DIGITS, SOLIDS, SCANS, replace(PHOTOS, shape=(3, 256, 256))):
        for choice in [*parts(facts), *(c for net in nets(facts) for c in net), *lengths(9, 1)]:
            assert len(choice.because) > 1
            for place in choice.evidence.split(", "):
                if "/" in place:
                    assert (REPOSITORY / place).exists(), place


def test_what_to_expect() -> None:
    fifty = replace(PHOTOS, number=50, looked_at=50, copies=10)
    found = expectations(fifty, 2000, 32)
    assert found[0].startswith("40 cases: expect copies; metrics=[memorisation]")
    assert found[1].startswith("10 of 50 samples are copies of others")
    assert len(found) == 2
    assert expectations(PHOTOS, 2000, 32) == ["12.8 looks at each sample; nothing unusual"]
    assert expectations(PHOTOS, 30, 32)[0].startswith("30 steps are few")
    assert "98% of the values agree" in expectations(replace(SOLIDS, agreeing=0.98), 2000, 8)[0]


@pytest.mark.parametrize("facts", [PHOTOS, DIGITS, SOLIDS, SCANS], ids=lambda f: str(f.shape))
def test_the_file_means_what_the_choices_say(facts: Fingerprint, tmp_path: Path) -> None:
    choices = [*parts(facts), *nets(facts)[-1], *lengths(1234, 16)]
    data = {2: ("images", {"root": "my: photos", "size": 32}),
            3: ("voxels", {"root": "scans", "size": [16, 16, 16]})}[facts.dims]  # fmt: skip
    (tmp_path / "experiment").mkdir()
    text = as_yaml("mine", data, choices, ["a line"])
    (tmp_path / "experiment/mine.yaml").write_text(text)
    assert max(map(len, text.splitlines())) <= 100
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        words = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"]
        cfg = compose("train", words, return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    tree = {key: value for key, value in cfg.items() if key != "hydra"}
    cfg = resolved(OmegaConf.create(tree))
    validate(cfg)
    assert (cfg.name, cfg.data.root, cfg.data.batch_size) == ("mine", data[1]["root"], 16)
    assert cfg.trainer.max_steps == cfg.lr_schedule.total_steps == 1234
    for choice in choices:
        if choice.option in GROUPS:
            assert chosen[choice.option] == choice.value
        else:
            assert OmegaConf.select(cfg, choice.option) == choice.value, choice.option
            assert f"# {choice.because}"[:60].split(" (")[0] in text


def test_nothing_of_a_volume_reaches_a_photograph() -> None:
    for sides in ((8, 8), (28, 28), (64, 96), (512, 512)):
        for law in ("binary", "bounded", "unbounded"):
            facts = replace(PHOTOS, shape=(3, *sides), law=law, agreeing=0.99)
            values = {str(choice.value) for choice in parts(facts)}
            assert not {"x0", "voxel_ddpm", "trailing", "40"} & values

"""A checkpoint that names code for Lightning to call (CVE-2026-58659): none of it is executed."""

import tomllib
from pathlib import Path

import pytest
import torch
from lightning.pytorch.core import saving
from packaging.requirements import Requirement

from ddiff.artifacts.trained import load_net
from ddiff.system.checkpoints import load_checkpoint
from ddiff.training.modules import DDPM
from tests.support.runs import TINY, ddiff_many, job

ROOT = Path(__file__).parents[2]
HOSTILE = """\
from pathlib import Path
MARK = Path(__file__).with_name("executed")
MARK.write_text("imported")
def instantiate(cls, kwargs):
    MARK.write_text("called")
    raise SystemExit
"""
ENTRIES = {"_instantiator": "hostile.instantiate", "_class_path": "hostile.instantiate"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose checkpoint is hostile, and with the module that it names."""
    folder = tmp_path_factory.mktemp("world")
    words = ("experiment=digits_ddpm", *TINY, "budget.max_steps=2", "run_dir=run")
    (done,) = ddiff_many([job("train", *words)], folder)
    assert done.status == 0, done.err
    path = folder / "run/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    keys = ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "module_arguments")
    torch.save({**saved, **{key: dict(ENTRIES) for key in keys}}, path)
    (folder / "hostile.py").write_text(HOSTILE)
    return folder


def test_resuming_and_sampling_execute_nothing(world: Path) -> None:
    jobs = [
        job("train", "ckpt_path=run", "budget.max_steps=3", "run_dir=more"),
        job("sample", "run=run", "num_samples=2", "out=drawn"),
    ]
    assert [done.status for done in ddiff_many(jobs, world)] == [0, 0]
    assert not (world / "executed").exists()


def test_the_loaders_execute_nothing(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(world))
    path, mark = world / "run/checkpoints/last.ckpt", world / "executed"
    assert load_checkpoint(path)["hyper_parameters"] == ENTRIES
    net, _, checkpoint = load_net(path)
    assert (checkpoint["global_step"], len(list(net.parameters())) > 0) == (2, True)
    with pytest.raises(ValueError, match=r"'hostile\.instantiate' .* was blocked"):
        DDPM.load_from_checkpoint(path, weights_only=True)
    assert not mark.exists()

    allowed = {*saving._ALLOWED_INSTANTIATORS, ENTRIES["_instantiator"]}
    monkeypatch.setattr(saving, "_ALLOWED_INSTANTIATORS", allowed)
    monkeypatch.setattr(saving, "_is_imported_subclass", lambda *_: True)
    with pytest.raises(SystemExit):  # the entries are where Lightning looks
        DDPM.load_from_checkpoint(path, weights_only=True)
    assert mark.read_text() == "called"


def test_releases_of_lightning_that_run_code_are_refused() -> None:
    """2.6.2 and 2.6.3 were malware; before 2.6.6 a checkpoint could name any function."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    found = [v for v in ("2.6.2", "2.6.3", "2.6.5", "2.6.6", "2.7") if v in named["lightning"]]
    assert found == ["2.6.6", "2.7"]

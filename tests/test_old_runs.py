"""Runs of the version before the rooms had their present names: they go on, sample and report.

`tests/old_runs` was made by commit bf566b8, eager and in float32, by commands such as
`python -m ddiff.train experiment=digits_cfg net=simple2d net.channels=4 net.embedding.dim=8
budget.max_steps=3`. The samples beside the runs are what that commit drew from them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ddiff.config.trees import MOVED, stored
from tests.support.runs import ddiff_many, job

OLD = Path(__file__).parent / "old_runs"


def test_targets_of_old_configs_have_their_present_names() -> None:
    old = OmegaConf.to_container(OmegaConf.load(OLD / "pictures/config.yaml"))
    new = stored(OLD / "pictures/config.yaml")
    assert isinstance(old, dict)
    assert old["module"]["_target_"] == "ddiff.modules.ConditionalDDPM"
    assert new.module._target_ == "ddiff.training.modules.ConditionalDDPM"
    assert new.precision._target_ == "ddiff.system.precision.Precision"
    assert new.net == old["net"]
    text = OmegaConf.to_yaml(new)
    assert not any(f"{package}." in text for package in MOVED)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Everything that can be done with the old runs, in one process. `from=` is how `run=` was
    called then."""
    cwd = tmp_path_factory.mktemp("old")
    for path in OLD.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, cwd / path.name)
    shutil.copytree(OLD / "pictures", cwd / "longer")
    jobs = {
        "pictures": job("sample", "run=pictures", "num_samples=4", "out=a"),
        "volumes": job("sample", "run=volumes", "num_samples=2", "mesh=none", "out=b"),
        "exported": job("sample", "from=pictures.pt2", "num_samples=4", "out=c",
                        DDIFF_TRUST="130fe8041b0a6621"),  # as of a stranger
        "resume": job("train", "ckpt_path=longer", "budget.max_steps=5"),
        "resume volumes": job("train", "ckpt_path=volumes", "budget.max_steps=4"),
        "resume labels": job("train", "ckpt_path=labels", "budget.max_steps=4"),
        "evaluate": job("evaluate", "run=pictures", "num_samples=8", "metrics=[labels]",
                        "extractor.run=labels"),
        "report": job("report", "runs=[pictures,longer]", "out=report"),
        "old names": job("train", "experiment=digits_cfg", "trainer=smoke", "net=simple2d",
                         "module._target_=ddiff.modules.ConditionalDDPM", "run_dir=named"),
    }  # fmt: skip
    results = dict(zip(jobs, ddiff_many(list(jobs.values()), cwd), strict=True))
    return cwd, results


@pytest.mark.parametrize("name", ["pictures", "volumes", "exported", "resume", "resume volumes",
                                  "resume labels", "evaluate", "report", "old names"])  # fmt: skip
def test_every_verb_takes_them(done, name) -> None:
    _, results = done
    assert results[name].status == 0, results[name].err


def test_they_draw_the_samples_they_drew(done) -> None:
    cwd, _ = done
    for made, was in (
        ("a", "pictures_samples"),
        ("b", "volumes_samples"),
        ("c", "pictures_samples"),
    ):
        new, old = np.load(cwd / f"{made}.npy"), np.load(OLD / f"{was}.npy")
        assert np.abs(new - old).max() < 1e-4
        assert old.std() > 0.1


def test_they_go_on_where_they_stood(done) -> None:
    cwd, results = done
    last = torch.load(cwd / "longer/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    assert last["ddiff"]["config"]["module"]["_target_"] == "ddiff.training.modules.ConditionalDDPM"
    where = json.loads((cwd / "longer/environment.json").read_text())
    assert list(where["changed"]) == ["lr_schedule.total_steps"]  # new names are no change
    assert "as it was trained" not in results["resume"].out


def test_a_report_sees_no_difference_in_names(done) -> None:
    cwd, _ = done
    assert "_target_" not in (cwd / "report.md").read_text()
    assert "training.modules" not in (cwd / "report.md").read_text()

"""`profiler=` from the outside: what a training, a resumed one and a sampling leave behind."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddiff.profiling import Simple, Torch
from ddiff.system.errors import ConfigError
from tests.support.runs import TINY, checkpoint, ddiff_many, differences, job, scalars

pytestmark = pytest.mark.slow  # a dozen commands
STEPS = 12
VOLUMES = ("experiment=voxel_adaptive", "data.size=16", "data.num=24", "net.patch_size=2",
           "optimizer=adamw", "precision=bf16", "trainer.accumulate_grad_batches=2",
           *TINY)  # fmt: skip
DIGITS = ("experiment=digits_cfg", *TINY)
LONG = f"budget.max_steps={STEPS}"
WATCHED = ("profiler=torch", "profiler.warmup=1", "profiler.active=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A training that nobody watches; the same one watched, killed and resumed; one with `simple`;
    samplings; a training that ends before its warm-up."""
    cwd = tmp_path_factory.mktemp("runs")
    sampling = ("sample", "run=simple", "num_samples=6", "batch_size=3", "solver.num_steps=4")
    jobs = [
        job("train", *VOLUMES, LONG, "run_dir=plain", "budget.save_every=2"),
        job("train", *VOLUMES, LONG, *WATCHED, "run_dir=torch", "budget.save_every=2", kill_at=6),
        job("train", "ckpt_path=torch"),
        job("train", *DIGITS, LONG, "profiler=simple", "run_dir=simple"),
        job(*sampling, "guidance=cfg", *WATCHED, "out=watched"),
        job(*sampling, "guidance=cfg", "out=plain_samples"),
        job(
            "sample",
            "run=simple",
            "num_samples=2",
            "solver.num_steps=4",
            "profiler=torch",
            "out=short",
        ),
    ]
    done = ddiff_many(jobs, cwd)
    assert [d.status for d in done] == [0, -9, 0, 0, 0, 0, 0], [d.err for d in done]
    return cwd, done


def profile_of(folder: Path):
    return json.loads((folder / "profile.json").read_text())


def test_a_watched_and_resumed_training_is_the_same_bit_for_bit(made):
    cwd, _ = made
    a, b = checkpoint(cwd / "plain"), checkpoint(cwd / "torch")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "batches_seen"):
        assert differences(a[part], b[part], part) == []
    assert scalars(cwd / "torch", "train/loss") == scalars(cwd / "plain", "train/loss")


def test_a_watched_sampling_is_the_same_bit_for_bit(made):
    cwd, _ = made
    assert (cwd / "watched.npy").read_bytes() == (cwd / "plain_samples.npy").read_bytes()


def test_a_training_leaves_tables_pictures_and_a_trace(made):
    cwd, done = made
    folder = cwd / "torch/profile"
    assert {p.name for p in folder.iterdir()} == {"profile.json", "trace.json.gz", "memory.png"}
    profile = profile_of(folder)
    assert sum(p["share"] for p in profile["phases"].values()) == pytest.approx(1, abs=1e-4)
    assert profile["steps"]["recorded"] == 2
    assert profile["steps"]["timed"] >= 1
    own = sum(o["ms"] for o in profile["operators"] if o["phase"] == "backward")
    assert own > 0
    convolutions = [o for o in profile["operators"] if "conv" in o["name"] and o["shapes"]]
    assert {o["phase"] for o in convolutions} == {"forward", "backward"}
    weights = sum(v.nbytes for k, v in checkpoint(cwd / "torch")["state_dict"].items()
                  if k.startswith("net."))  # fmt: skip
    peak = profile["memory_mb"]["at_peak"]
    assert peak["weights"] == peak["averaged weights"] == pytest.approx(weights / 1e6, rel=1e-5)
    assert peak["optimiser state"] == pytest.approx(2 * weights / 1e6, rel=0.01)
    assert sum(peak.values()) == pytest.approx(profile["memory_mb"]["peak"], rel=1e-4)
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        names = {e["name"] for e in json.load(file)["traceEvents"]}
    assert {"phase: forward", "phase: backward", "phase: optimiser", "step 2"} <= names
    with Image.open(folder / "memory.png") as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert "open it at https://ui.perfetto.dev or chrome://tracing" in done[2].out


def test_the_dashboard_has_curves_tables_and_the_picture(made):
    cwd, _ = made
    board = EventAccumulator(str(cwd / "torch/tensorboard")).Reload()
    tags = board.Tags()
    for tag in ("profile_share/forward", "profile_ms/backward", "profile_step_ms/p99"):
        assert tag in tags["scalars"]
    assert board.Scalars("profile_step_ms/p50")[-1].step == STEPS
    assert "profile/memory" in tags["images"]
    for name, words in (("phases", "| backward |"), ("operators by time", "aten::"),
                        ("operators by memory", "aten::")):  # fmt: skip
        (event,) = board.Tensors(f"profile/{name}/text_summary")
        text = event.tensor_proto.string_val[0].decode()
        assert words in text
        assert text.splitlines()[1].startswith("| --- |")


def test_simple_writes_phases_and_no_operators(made):
    cwd, done = made
    profile = profile_of(cwd / "simple/profile")
    assert {p.name for p in (cwd / "simple/profile").iterdir()} == {"profile.json"}
    assert (profile["steps"]["timed"], profile["clock"]) == (STEPS - 3, "host")
    assert "operators" not in profile
    assert profile["apart_seconds"]["validation"] > 0
    assert "ms (p50)" in done[3].out


def test_a_sampling_is_profiled_beside_its_samples(made):
    cwd, _ = made
    folder = cwd / "watched_profile"
    profile = profile_of(folder)
    assert profile["kind"] == "sampling"
    assert profile["steps"]["timed"] == 2 * 4 - 1 - 3  # two batches of four steps
    assert list(profile["phases"]) == ["guidance", "net", "solver step", "logging", "other"]
    assert profile["phases"]["net"]["share"] > 0.5
    assert profile["phases"]["other"]["share"] < 0.2  # of a millisecond
    assert {"start", "transfer", "writing"} <= profile["apart_seconds"].keys()
    assert (
        "profile/memory" in EventAccumulator(str(folder / "tensorboard")).Reload().Tags()["images"]
    )
    assert (folder / "trace.json.gz").stat().st_size > 1000


def test_a_sampling_shorter_than_the_warm_up_says_so(made):
    cwd, done = made
    line = next(x for x in done[6].out.splitlines() if x.startswith("profiler"))
    assert "4 steps ended" in line
    assert "profiler.warmup=5 first and the 4 recorded ones are not timed" in line
    assert not (cwd / "short_profile").exists()


@pytest.mark.parametrize("make", [lambda: Simple(-1), lambda: Torch(0), lambda: Torch(5, 0)])
def test_impossible_options_are_refused(make):
    with pytest.raises(ConfigError, match=r"profiler\.(warmup|active) must be \d or more"):
        make()

"""Every experiment runs, sweeps sweep, ranks agree."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.runs import TINY, checkpoint, chosen, ddiff_many, differences, job, scalars

CONF = Path(__file__).parents[1] / "conf"
NO_SAMPLES = ("classifier", "autoencoder", "voxel_autoencoder")
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
QUICK = {
    "digits_ddpm",
    "digits_cfg",
    "voxel_baseline",
    "voxel_adaptive",
    "classifier",
    "autoencoder",
}


def write_idx(folder: Path, count: int = 24) -> None:
    """MNIST's true format, small: big-endian headers, then bytes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8).tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        header = struct.pack(">iiii", 2051, count, 28, 28)
        for name, content in (
            (f"{part}-images-idx3-ubyte.gz", header + images),
            (f"{part}-labels-idx1-ubyte.gz", struct.pack(">ii", 2049, count) + labels),
        ):
            (folder / name).write_bytes(gzip.compress(content))


def write_cifar10(folder: Path, count: int = 8) -> None:
    """CIFAR-10's binary version, small: a label byte and 3,072 pixels an image."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records = rng.integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] = np.arange(count) % 10
        (folder / name).write_bytes(records.tobytes())


@pytest.fixture(scope="module")
def smoked(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Every chosen experiment's run of two steps, nets as they are, in folders of their names."""
    cwd = tmp_path_factory.mktemp("experiments")
    for name in ("mnist", "fashion_mnist"):
        write_idx(cwd / "data" / name)
    write_cifar10(cwd / "data" / "cifar10" / "cifar-10-batches-bin")
    small = ["budget.max_steps=2", "budget.batch_size=2", "data.num_workers=0"]
    samples = ["sampling.num_samples=2", "solver.num_steps=2"]
    jobs = [
        job("train", f"experiment={name}", "trainer=smoke", *small, f"run_dir={name}",
            *(samples[:1] if name in NO_SAMPLES else samples),
            *(["data.run=autoencoder"] if "latent" in name else []))
        for name in sorted(chosen(request, "name") | {"autoencoder", "voxel_baseline"})
    ]  # fmt: skip
    done = ddiff_many(jobs, cwd)
    assert [(d.status, d.err) for d in done] == [(0, "")] * len(done)
    return cwd


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXPERIMENTS]
)
def test_experiment_runs_two_steps(name: str, smoked: Path) -> None:
    run = smoked / name
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["step"] == 2
    assert 0 < metrics["val/loss"] < 10
    assert set(scalars(run, "train/loss")) == {0, 1}
    names = {p.name for p in run.iterdir()}
    if name == "classifier":
        assert 0 <= metrics["val/accuracy"] <= 1
        assert names == {"config.yaml", "environment.json", "metrics.json", "checkpoints",
                         "tensorboard", ".lock"}  # fmt: skip
        return
    if name in NO_SAMPLES:
        assert 0 < metrics["val/reconstruction"] < 2
        names.add("timesteps.png")
    assert names == {"config.yaml", "environment.json", "metrics.json", "checkpoints",
                     "tensorboard", "samples", "timesteps.png", ".lock"}  # fmt: skip
    samples = np.load(run / "samples/step_000002.npy")
    assert np.isfinite(samples).all()
    assert (run / "samples/step_000002.png").stat().st_size > 100


def test_a_sweep_of_four(tmp_path: Path) -> None:
    options = ["-m", "experiment=digits_ddpm", "schedule=linear,cosine", "seed=1,2", *TINY]
    (done,) = ddiff_many([job("train", *options, "budget.max_steps=2")], tmp_path)
    assert (done.status, done.err) == (0, "")
    runs = sorted(p.parent for p in tmp_path.glob("runs/digits_ddpm/*/*/metrics.json"))
    assert [r.name for r in runs] == ["0", "1", "2", "3"]
    states = [checkpoint(r)["state_dict"] for r in runs]
    configs = [checkpoint(r)["ddiff"]["config"] for r in runs]
    assert [(c["schedule"]["_target_"].rpartition(".")[2], c["seed"]) for c in configs] == [
        ("linear", 1), ("linear", 2), ("cosine", 1), ("cosine", 2)]  # fmt: skip
    for i in range(4):
        for j in range(i):
            assert differences(states[i], states[j]) != []


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    options = ["experiment=digits_cfg", *TINY, "budget.max_steps=4"]
    jobs = [job("train", *options, f"run_dir={name}") for name in ("a", "b")]
    jobs += [job("train", *options, "run_dir=c", "seed=1")]
    assert [d.status for d in ddiff_many(jobs, tmp_path)] == [0, 0, 0]
    a, b, c = (checkpoint(tmp_path / name)["state_dict"] for name in "abc")
    assert differences(a, b) == []
    assert differences(a, c) != []
    sample = "samples/step_000004.npy"
    assert (tmp_path / "a" / sample).read_bytes() == (tmp_path / "b" / sample).read_bytes()


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    options = ["experiment=digits_ddpm", *TINY, "budget.max_steps=2", "run_dir=run"]
    first, second, third = ddiff_many(
        [job("train", *options), job("train", *options), job("train", "ckpt_path=run")], tmp_path
    )
    assert first.status == 0
    assert second.status == third.status == 2
    assert "already holds a run" in second.err
    assert "has reached step 2" in third.err
    assert json.loads((tmp_path / "run/metrics.json").read_text())["step"] == 2


def test_the_dashboard_has_what_it_promises(smoked: Path) -> None:
    board = EventAccumulator(str(smoked / "voxel_baseline/tensorboard")).Reload()
    tags = board.Tags()
    learning = {"train/loss", "train/grad_norm", "train/lr", "train/epochs", "val/loss", "val/iou"}
    speed = {"speed/samples_per_second", "speed/step_seconds", "speed/data_wait"}
    taken = {"device/cpu_use_percent", "device/disk_free_gb", "device/run_mb",
             "memory/process_mb", "memory/process_peak_mb"}  # fmt: skip
    by_timestep = {tag for tag in tags["scalars"] if tag.startswith(("timesteps", "val_loss"))}
    on_cpu = {tag for tag in tags["scalars"] if "/gpu" not in tag}
    assert on_cpu - by_timestep == learning | speed | taken
    assert {"timesteps/effective_sample_size", "timesteps_p/0.0-0.1"} <= by_timestep
    assert set(tags["images"]) == {"samples", "timesteps"}
    assert {"volumes_VERTEX", "volumes_FACE", "volumes_COLOR"} <= set(tags["tensors"])
    hparams = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for option in (b"net.channels", b"schedule.snr_factor", b"optimizer.lr"):
        assert option in hparams

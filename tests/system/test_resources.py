"""What a training says it takes: time, processor, memory, disk and GPU, against other clocks."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.trees import resolved
from ddiff.data.source import Source
from ddiff.system.errors import DdiffError
from ddiff.system.resources import CpuUse, Nvml, PeakMemory, allocator, disk, process_memory
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts
from ddiff.training.callbacks import Progress, Resources, Resumed
from ddiff.training.callbacks.resources import in_words
from ddiff.training.loggers import TensorBoard
from tests.support.runs import TINY, scalars

SLEEP = 0.03
STEPS, B, ACCUMULATE = 8, 4, 2


class Slow:
    """A source whose every batch takes a while; `slept` is how long, by its own clock."""

    def __init__(self, source: Source) -> None:
        self.source, self.slept = source, list[float]()

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: torch.Tensor) -> Any:
        started = time.perf_counter()
        time.sleep(SLEEP)
        self.slept.append(time.perf_counter() - started)
        return self.source.batch(indices)


class Witness(Callback):
    """Its own clock of steps and pauses, and the gradient's norm by plain arithmetic."""

    def __init__(self) -> None:
        self.ends, self.norms = list[float](), list[float]()

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        squares = sum(float(p.grad.double().square().sum()) for p in module.net.parameters())
        self.norms.append(squares**0.5)

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())


class Pause(Callback):
    """After the step, as samples and saves are."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_batch_end(self, *args: Any) -> None:
        started = time.perf_counter()
        time.sleep(2 * SLEEP)
        self.seconds += time.perf_counter() - started


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training of two micro-batches a step, every batch late, with a pause after each."""
    path = tmp_path_factory.mktemp("run")
    options = ["experiment=digits_ddpm", "net=unet_tiny", *TINY, f"budget.max_steps={STEPS}",
               "budget.val_every=1000", f"trainer.accumulate_grad_batches={ACCUMULATE}",
               "budget.log_every=2"]  # fmt: skip
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = resolved(compose("train", [o for o in options if "log_every=1" not in o]))
    data = build(cfg.data)
    data.setup("fit")
    data.train = slow = Slow(data.train)
    fill_in_data_facts(cfg, data)
    precision = build_precision(cfg.precision, torch.device("cpu"))
    progress, witness, pause = Progress(B, 2, 0.0), Witness(), Pause()
    resources = Resources(path, 2, progress, seconds=0)
    callbacks = [witness, resources, progress, pause, Resumed(progress)]
    trainer = build_trainer(cfg, path, TensorBoard(path), callbacks, precision)
    trainer.fit(build_module(cfg, precision), data)
    assert trainer.logger is not None
    trainer.logger.finalize("success")
    parts = {"progress": progress, "resources": resources, "slow": slow}
    return {"path": path, "witness": witness, "pause": pause, **parts}


def test_the_wait_is_what_the_loader_slept(trained: dict[str, Any]) -> None:
    # batches 2 to 16 are counted; one is fetched before the first, and one more after each
    slept = sum(trained["slow"].slept[2 : STEPS * ACCUMULATE + 1])
    pace = trained["progress"].all
    assert pace.batches == STEPS * ACCUMULATE - 1
    assert slept < pace.waited < slept + 0.01 * pace.batches
    assert trained["resources"].summary["data_wait"] == pytest.approx(pace.waited / pace.seconds)


def test_the_pace_is_that_of_another_clock(trained: dict[str, Any]) -> None:
    ends, pauses = trained["witness"].ends, trained["pause"].seconds
    clock = ends[-1] - ends[0] - pauses * (len(ends) - 1) / len(ends)
    progress = trained["progress"]
    assert progress.all.seconds == pytest.approx(clock, rel=0.03)
    assert progress.samples_per_second == pytest.approx(B * (len(ends) - 1) / clock, rel=0.03)
    step = trained["resources"].summary["step_seconds"]
    assert step == pytest.approx(ACCUMULATE * clock / (len(ends) - 1), rel=0.03)
    assert progress.images == B * STEPS * ACCUMULATE


def test_curves_are_of_the_time_since_the_last_report(trained: dict[str, Any]) -> None:
    rates = scalars(trained["path"], "speed/samples_per_second")
    seconds = scalars(trained["path"], "speed/step_seconds")
    waits = scalars(trained["path"], "speed/data_wait")
    assert set(rates) == set(seconds) == set(waits) == {1, 3, 5, 7}
    for step, rate in rates.items():
        assert rate * seconds[step] == pytest.approx(B * ACCUMULATE, rel=1e-5)
    whole = sum(seconds[s] * (2 if s > 1 else 1.5) for s in seconds)  # the first batch left out
    assert whole == pytest.approx(trained["progress"].all.seconds, rel=1e-4)
    waited = sum(waits[s] * seconds[s] * (2 if s > 1 else 1.5) for s in seconds)
    assert waited == pytest.approx(trained["progress"].all.waited, rel=1e-4)


def test_the_gradient_norm_is_that_before_clipping(trained: dict[str, Any]) -> None:
    logged, true = scalars(trained["path"], "train/grad_norm"), trained["witness"].norms
    assert logged == {i: pytest.approx(true[i], rel=1e-5) for i in (1, 3, 5, 7)}
    assert max(true) > 1  # else clipping at 1 would not show


def test_figures_of_the_machine_are_logged(trained: dict[str, Any]) -> None:
    board = EventAccumulator(str(trained["path"] / "tensorboard")).Reload()
    tags = {t for t in board.Tags()["scalars"] if t.startswith(("device/", "memory/"))}
    assert tags == {"device/cpu_use_percent", "device/disk_free_gb", "device/run_mb",
                    "memory/process_mb", "memory/process_peak_mb"}  # fmt: skip
    assert set(scalars(trained["path"], "memory/process_mb")) == {1, 3, 5, 7}
    size = sum(f.stat().st_size for f in trained["path"].rglob("*") if f.is_file()) / 2**20
    assert scalars(trained["path"], "device/run_mb")[7] <= size < 10
    speed, memory = in_words(trained["resources"].summary)
    assert speed.startswith("speed ")
    assert "% of it waiting for data, CPU" in speed
    assert memory.startswith("memory      process up to")
    assert "GPU" not in memory


def test_the_processors_use() -> None:
    use, usage = CpuUse(), resource.getrusage(resource.RUSAGE_SELF)
    started, busy = time.perf_counter(), usage.ru_utime + usage.ru_stime
    while time.perf_counter() - started < 0.3:
        sum(range(1000))
    time.sleep(0.3)
    percent, usage = use(), resource.getrusage(resource.RUSAGE_SELF)
    wall = time.perf_counter() - started
    busy = usage.ru_utime + usage.ru_stime - busy
    cores = len(os.sched_getaffinity(0))
    # the system tells psutil user and system time in hundredths of a second
    assert percent == pytest.approx(100 * busy / wall / cores, abs=100 * 0.025 / wall / cores)
    time.sleep(0.1)
    assert use() < 0.5 * percent  # of the time since then, not of all


def test_memory_follows_an_allocation() -> None:
    before = process_memory()
    block = np.ones(2**27, np.uint8)  # 128 MiB, every page written
    during = process_memory()
    del block
    after = process_memory()
    assert during["process_mb"] - before["process_mb"] == pytest.approx(128, abs=8)
    assert after["process_mb"] - before["process_mb"] < 8
    assert after["process_peak_mb"] >= during["process_mb"] - 1


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_proc = process_memory()
    monkeypatch.setattr("ddiff.system.resources.STATUS", tmp_path / "none")
    found = process_memory()
    assert found["process_mb"] == pytest.approx(with_proc["process_mb"], abs=1)
    assert found["process_peak_mb"] >= with_proc["process_peak_mb"] - 1


def test_the_peak_of_memory_is_that_of_what_follows() -> None:
    block = np.ones(2**28, np.uint8)  # 256 MiB
    high = PeakMemory(torch.device("cpu")).mb()
    del block
    peak = PeakMemory(torch.device("cpu"))
    start = peak.mb()
    assert high - start == pytest.approx(256, abs=16)
    block = np.ones(2**27, np.uint8)
    del block
    assert peak.mb() - start == pytest.approx(128, abs=8)
    assert peak.meaning == "resident memory of the process, in this run"


def test_where_the_peak_cannot_be_counted_anew_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ddiff.system.resources.RESTART", tmp_path / "none/clear_refs")
    peak = PeakMemory(torch.device("cpu"))
    assert "since it started, earlier runs included" in peak.meaning
    assert peak.mb() == process_memory()["process_peak_mb"]


SWEEP = """
import gc, signal, sys
import torch
from ddiff.train import main

torch.set_num_threads(1)
main()
gc.collect()
alive = [type(o).__name__ for o in gc.get_objects() if type(o).__name__ in ("Run", "Trainer")]
assert not alive, alive
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""


@pytest.mark.slow
def test_every_run_of_a_sweep_has_a_peak_of_its_own(tmp_path: Path) -> None:
    """Two large trainings, then two equal small ones, in one process; the same small one alone."""
    small = ["experiment=digits_ddpm", *TINY, "budget.max_steps=3", "budget.batch_size=4"]
    sweep = [*small, "-m", "budget.batch_size=4096,4", "seed=0,1", "runs=swept"]
    sweep.remove("budget.batch_size=4")
    sweep.insert(0, sweep.pop(sweep.index("-m")))
    for options in (sweep, [*small, "run_dir=alone"]):
        done = subprocess.run(
            [sys.executable, "-c", SWEEP, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("swept/*/*/*/metrics.json"))]
    *large, first, second = [metrics["peak_memory_mb"] for metrics in found]
    alone = json.loads((tmp_path / "alone/metrics.json").read_text())["peak_memory_mb"]
    assert len(large) == 2
    assert min(large) > 1.2 * max(first, second)
    assert second == pytest.approx(first, rel=0.02)
    assert first == pytest.approx(alone, rel=0.1)
    assert "peak_memory_mb: resident memory of the process, in this run" in found[0]["protocol"]


def test_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/one").write_bytes(bytes(3 * 2**20))
    (tmp_path / "two").write_bytes(bytes(2**19))
    (tmp_path / "a/gone").symlink_to(tmp_path / "nowhere")  # as a file renamed meanwhile
    found, there = disk(tmp_path), os.statvfs(tmp_path)
    assert found["run_mb"] == 3.5
    assert found["disk_free_gb"] == pytest.approx(there.f_bavail * there.f_frsize / 2**30, abs=0.5)


def test_the_allocators_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = {
        "allocated_bytes": {"all": {"current": 3 * 2**20, "peak": 5 * 2**20}},
        "reserved_bytes": {"all": {"current": 8 * 2**20, "peak": 9 * 2**20}},
    }
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda device: stats)
    expected = {"gpu_allocated_mb": 3, "gpu_reserved_mb": 8, "gpu_peak_mb": 5}
    assert allocator(torch.device("cuda")) == expected


class Gpu:
    """NVML's functions over a GPU that is not there; `mig` is None where it cannot be divided."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads, self.power = True, True
        self.mig: list[int] | None = [0, 0]  # now and after the next restart
        for name in ("Init", "DeviceGetHandleByUUID", "DeviceGetMigMode", "DeviceGetPowerUsage",
                     "DeviceGetUtilizationRates", "DeviceGetTemperature"):  # fmt: skip
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))

    def Init(self) -> None:
        if not self.loads:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def DeviceGetHandleByUUID(self, uuid: str) -> "Gpu":
        if uuid != "GPU-12ab":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self

    def DeviceGetMigMode(self, handle: "Gpu") -> list[int]:
        if self.mig is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.mig

    def DeviceGetPowerUsage(self, handle: "Gpu") -> int:
        if handle is not self or not self.power:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 312500

    def DeviceGetUtilizationRates(self, handle: "Gpu") -> SimpleNamespace:
        assert handle is self
        return SimpleNamespace(gpu=87, memory=40)

    def DeviceGetTemperature(self, handle: "Gpu", sensor: int) -> int:
        assert (handle, sensor) == (self, 0)
        return 61


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, said = Gpu(monkeypatch), list[str]()
    expected = {"gpu_use_percent": 87, "gpu_power_watts": 312.5, "gpu_celsius": 61}
    assert Nvml("12ab", said.append)() == expected
    gpu.mig = None
    assert Nvml("GPU-12ab", said.append)() == expected
    gpu.mig = [0, 1]
    poor = Nvml("12ab", said.append)
    assert said == []
    gpu.power = False
    for _ in range(2):
        assert poor() == {"gpu_use_percent": 87, "gpu_celsius": 61}
    assert said == ["gpu_power_watts is left out: NVML's nvmlDeviceGetPowerUsage says: "
                    "Not Supported"]  # fmt: skip
    with pytest.raises(DdiffError, match=r"ByUUID says: Not Found"):
        Nvml("34cd", said.append)
    gpu.mig = [1, 1]
    with pytest.raises(DdiffError, match=r"divided \(MIG\)"):
        Nvml("12ab", said.append)
    gpu.loads = False
    with pytest.raises(DdiffError, match=r"NVML cannot be loaded \(NVML Shared Library Not Found"):
        Nvml("12ab", said.append)

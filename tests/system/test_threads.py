"""The number of threads: chosen by what other programs leave idle, recorded, kept when resumed."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddiff.system import threads as module
from ddiff.system.threads import Cores, fitting, most_threads, quota, threads
from ddiff.training.callbacks import AdaptThreads
from tests.support.runs import TINY, checkpoint, ddiff

DIGITS = ("experiment=digits_ddpm", *TINY)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Four cores whose use by others the test sets; each look takes no time of its own."""
    world = SimpleNamespace(busy=0.0, ticks=[[0, 0] for _ in range(4)])

    def look(seconds: float) -> None:
        for core in range(4):
            used = round(100 * min(1.0, max(0.0, world.busy - core)))
            world.ticks[core][0] += used
            world.ticks[core][1] += 100 - used
        rows = [f"cpu{n} {b} 0 0 {i} 0 0 0 0 0 0" for n, (b, i) in enumerate(world.ticks)]
        (tmp_path / "stat").write_text("\n".join(["cpu  0 0 0 0 0 0 0 0 0 0", *rows, "intr 5"]))

    look(0)
    monkeypatch.setattr(module, "PROC", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(time, "sleep", look)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    for name in module.SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield world
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("idle", "most", "number"),
    [(2.0, 2, 2), (1.7, 2, 2), (1.6, 2, 1), (1.0, 2, 1), (0.0, 2, 1), (0.0, 1, 1), (15.9, 16, 16),
     (14.6, 16, 14), (3.0, 16, 8), (31.0, 16, 16)],
)  # fmt: skip
def test_a_thread_for_each_idle_core(idle: float, most: int, number: int) -> None:
    assert fitting(idle, most) == number


@pytest.mark.parametrize(("busy", "number"), [(0.0, 4), (0.2, 4), (1.0, 3), (2.0, 2), (4.0, 2)])
def test_auto_leaves_busy_cores_alone(
    machine: Any, busy: float, number: int, capsys: pytest.CaptureFixture
) -> None:
    machine.busy = busy
    with threads("auto", "cpu"):
        assert torch.get_num_threads() == number
    assert torch.get_num_threads() == 4  # for the next job of a sweep
    said = f"threads={number}: other programs leave {4 - busy:.1f} of 4 cores idle; threads=4 takes"
    assert capsys.readouterr().out.startswith(said) == (number < 4)


def test_a_number_or_the_environment_is_the_last_word(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.busy = 3.0
    with threads(3, "cpu"):
        assert torch.get_num_threads() == 3
    torch.set_num_threads(2)  # auto never takes more than was set before
    machine.busy = 0.0
    with threads("auto", "cpu"):
        assert torch.get_num_threads() == 2
    torch.set_num_threads(4)
    machine.busy = 3.0
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with threads("auto", "cpu"):
        assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("asked", "recorded", "busy", "number", "said"),
    [
        ("auto", 4, 0.0, 4, ""),
        ("auto", 3, 1.0, 3, "threads=3: other programs leave 3.0 of 4 cores idle; threads=4 takes"),
        ("auto", 4, 2.0, 4, "threads=4, as in the run so far; threads=2 would suit this machine"),
        ("auto", 2, 0.0, 2, "threads=2, as in the run so far; threads=4 would suit this machine"),
        ("auto", 16, 0.0, 4, "threads=4, and the run had 16: it continues, but not bit for bit"),
        (1, 2, 0.0, 1, "threads=1, and the run had 2: it continues, but not bit for bit"),
        (2, 2, 3.0, 2, ""),
    ],
)
def test_a_resumed_run_keeps_its_number(
    machine: Any, asked: Any, recorded: int, busy: float, number: int, said: str, capsys: Any
) -> None:
    machine.busy = busy
    with threads(asked, "cpu", recorded):
        assert torch.get_num_threads() == number
    out = capsys.readouterr().out
    assert out.startswith(said)
    assert bool(out) == bool(said)


def test_adapt_follows_what_others_do(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer: Any = SimpleNamespace(global_step=7)
    machine.busy, found = 1.0, []
    with threads("adapt", "cpu"):
        assert torch.get_num_threads() == 4
        callback = AdaptThreads(seconds=0.0)
        callback.on_train_start(trainer, trainer)
        for machine.busy in (1.0, 0.0, 2.0):
            callback.on_train_batch_end(trainer, trainer, None, None, 0)
            found.append(torch.get_num_threads())
        callback.seconds = 1e9
        machine.busy = 0.0
        callback.on_train_batch_end(trainer, trainer, None, None, 0)
        found.append(torch.get_num_threads())
    assert found == [3, 4, 2, 2]


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="Linux alone says")
def test_this_process_does_not_count_as_another() -> None:
    """A look that is taken while this process keeps a core busy, at a true machine."""
    alone, cores = os.sched_getaffinity(0), Cores()
    idle = cores.idle()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        sum(range(1000))
    assert idle is not None
    with_us = cores.idle()
    assert with_us is not None
    assert 0 <= with_us <= len(alone)
    read = cores._read()
    assert read[1] - cores.since[1] < 0.5  # its own time was taken at the look
    others = Cores()
    others.since = (others.since[0], -1e9, others.since[2])  # as if all that is busy were our own
    assert others.idle() == len(alone)


@pytest.mark.parametrize(
    ("line", "files", "limit"),
    [
        ("0::/a/b", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1.0),
        ("0::/", {}, math.inf),
        ("4:cpu,cpuacct:/x", {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                              "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("4:memory:/x", {"memory/cpu.max": "100000 100000"}, math.inf),
        ("4:cpu:/x", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
         math.inf),
    ],
)  # fmt: skip
def test_the_quota_of_a_container(
    line: str, files: dict[str, str], limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text(line + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "PROC", tmp_path)
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
    assert quota() == limit
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    assert most_threads() == (4 if limit == math.inf else math.ceil(limit))
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_run_records_its_threads_and_resumes_with_them(tmp_path: Path) -> None:
    """Where two cores are shared with others, and no variable says how many to take."""
    free = {"OMP_NUM_THREADS": "", "MKL_NUM_THREADS": ""}
    most = len(os.sched_getaffinity(0))
    done = ddiff("train", *DIGITS, "budget.max_steps=2", "threads=1", "run_dir=run", cwd=tmp_path,
                 **free)  # fmt: skip
    assert done.status == 0, done.err
    where = json.loads((tmp_path / "run/environment.json").read_text())
    assert (where["threads"], checkpoint(tmp_path / "run")["ddiff"]["threads"]) == (1, 1)
    more = ddiff("train", "ckpt_path=run", "budget.max_steps=3", "threads=2", cwd=tmp_path, **free)
    assert "threads=2, and the run had 1: it continues, but not bit for bit" in more.out, more.err
    assert checkpoint(tmp_path / "run")["ddiff"]["threads"] == 2
    again = ddiff("train", "ckpt_path=run", "budget.max_steps=4", "threads=auto", cwd=tmp_path,
                  **free)  # fmt: skip
    assert again.status == 0, again.err
    assert checkpoint(tmp_path / "run")["ddiff"]["threads"] == min(2, most)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("threads=0", "threads: 0 is less than 1"),
        ("threads=many", "threads: 'many' is not an integer or one of auto, adapt"),
        ("threads=1.5", "threads: 1.5 is not an integer or one of auto, adapt"),
    ],
)
def test_what_is_no_number_of_threads(word: str, said: str) -> None:
    from hydra import compose, initialize_config_module

    from ddiff.config.trees import resolved
    from ddiff.config.validation import validate
    from ddiff.system.errors import ConfigError

    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = resolved(compose("train", [word]))
    with pytest.raises(ConfigError) as caught:
        validate(cfg)
    assert str(caught.value) == said

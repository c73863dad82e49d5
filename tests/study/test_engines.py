"""Engines run jobs, tell a lost one from one that failed, and leave no process behind."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import ddiff
from ddiff.study.engines import Ended, Job, Local, Ray, Slurm, base, run_all
from ddiff.study.engines.children import last_line
from ddiff.system.errors import ConfigError
from tests.support import slurm
from tests.support.counting import numbers, processes

ROOT = Path(__file__).parents[2]
submitit = pytest.mark.skipif(
    not importlib.util.find_spec("submitit"), reason="submitit is not installed"
)
ABSENT = "import sys; sys.modules[{!r}] = None; from ddiff.study.engines import {}; {}()"


def counting(name: str, steps: int = 5, seconds: float = 0.05) -> Job:
    words = ("tests.support.counting", name, str(steps), str(seconds))
    return Job(name, words, Path(f"{name}.log"))


def until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(ddiff.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(source)]))


def test_local_jobs_run_side_by_side_and_say_how_they_ended() -> None:
    engine = Local(slots=1, threads=1)
    jobs = [counting("a"), counting("b"), Job("wrong", ("no_such_module",), Path("deep/wrong.log"))]
    ended = {one.job.name: one.status for one in run_all(engine, jobs)}
    assert ended == {"a": 0, "b": 0, "wrong": 1}
    assert numbers(Path("b")) == list(range(5))
    assert last_line(Path("a.log")) == "counted to 5 with 1 threads"
    assert last_line(Path("deep/wrong.log")).endswith("No module named no_such_module")


class Vanishing:
    """An engine whose machines are lost as often as a job's words say."""

    slots = 1

    def __init__(self) -> None:
        self.tries: dict[str, list[float]] = {}
        self.waiting: list[Job] = []

    def submit(self, job: Job) -> None:
        self.tries.setdefault(job.name, []).append(clock[0])
        self.waiting.append(job)

    def wait(self, seconds: float) -> list[Ended]:
        ended, self.waiting = self.waiting, []
        return [
            Ended(job, None if len(self.tries[job.name]) <= int(job.words[0]) else 0)
            for job in ended
        ]

    def close(self) -> None:
        pass


clock = [0.0]


def test_a_lost_job_is_tried_again_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that has not noticed a loss sends the job to the lost machine again."""
    monkeypatch.setattr(base.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(base.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 1))
    engine = Vanishing()
    jobs = [Job(name, (losses,), Path("log")) for name, losses in (("a", "5"), ("b", "1000"))]
    ended = {one.job.name: one.status for one in run_all(engine, jobs)}
    assert ended == {"a": 0, "b": None}
    pauses = {name: np.diff(tries).tolist() for name, tries in engine.tries.items()}
    assert pauses["a"] == [2, 4, 8, 16, 32]
    assert pauses["b"] == [2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_closing_lets_a_job_save_and_starts_no_other() -> None:
    engine = Local(slots=1, threads=1)
    engine.submit(counting("a", 10**6))
    engine.submit(counting("b"))
    until(lambda: len(numbers(Path("a"))) > 2)
    engine.close()
    assert Path("a").read_text().splitlines()[-1].startswith("saved ")
    assert not Path("b").exists()


START = """\
import sys
from pathlib import Path
from ddiff.study.engines import Job, Local
engine = Local(slots=1, threads=1)
engine.submit(Job("a", ("tests.support.counting", "a", "1000000", "0.05"), Path("a.log")))
while True:
    engine.wait(1)
"""


def test_a_killed_engine_takes_its_jobs_along_and_the_next_waits_for_them() -> None:
    """SIGKILL on the engine is SIGTERM for its job, and the same job runs once at a time."""
    process = subprocess.Popen([sys.executable, "-c", START])
    until(lambda: len(numbers(Path("a"))) > 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    so_far = len(numbers(Path("a")))
    (ended,) = run_all(Local(slots=1, threads=1), [counting("a", so_far + 5)])
    assert ended.status == 0
    assert numbers(Path("a")) == list(range(so_far + 5))
    first, second = processes(Path("a"))
    lines = Path("a").read_text().splitlines()
    assert lines.index(f"saved {first}") < lines.index(f"{so_far} {second}")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")
def test_ray_jobs_outlive_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of two workers, one of which is killed: its job alone is submitted twice."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.ray_cluster", "found.json"]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as place:  # short, for sockets
        monkeypatch.setenv("RAY_TMPDIR", place)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(Path("found.json").read_text())
    assert found["slots"] == 2
    assert found["statuses"] == [0] * 8
    twice = {f"job{n}": 2 if n == 3 else 1 for n in range(8)}
    assert found["submitted"] == found["processes"] == twice
    assert found["numbers"] == {f"job{n}": list(range(10)) for n in range(8)}
    assert "the machine was lost" in Path("job3.log").read_text()
    assert found["close"] < 20
    assert found["endless"] == "saved"
    assert not found["queued"]


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")
def test_without_a_cluster_one_line_says_how_to_start_one() -> None:
    if any(one.info["name"] == "gcs_server" for one in psutil.process_iter(["name"])):
        pytest.skip("a Ray cluster runs on this machine")
    code = "from ddiff.study.engines import Ray; Ray()"
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env["RAY_TMPDIR"] = str(Path.cwd())
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "there is no cluster here; `ray start --head` starts one" in done.stderr


@pytest.mark.parametrize(
    ("package", "engine", "extra"), [("ray", "Ray", "ray"), ("submitit", "Slurm", "slurm")]
)
def test_a_missing_package_is_named(package: str, engine: str, extra: str) -> None:
    code = ABSENT.format(package, engine, engine)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wanted = f"engine={extra} needs {package}: pip install 'ddiff[{extra}]'"
    assert done.stderr.strip().endswith(wanted)


def test_half_a_gpu_more_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither whole nor a part of one GPU"):
        Ray(num_gpus=1.5)


@submitit
def test_a_pre_empted_job_saves_queues_again_and_continues() -> None:
    """submitit's own executor for one machine, and the signal that Slurm sends to the job."""
    engine = Slurm(cluster="local", slots=2, cpus=1)
    jobs = [counting("a", 20, 0.1), counting("b"), Job("wrong", ("no_such_module",), Path("w.log"))]
    ended: list = []
    thread = threading.Thread(target=lambda: ended.extend(run_all(engine, jobs)))
    thread.start()
    until(lambda: len(numbers(Path("a"))) > 3)
    (process,) = processes(Path("a"))
    psutil.Process(int(process)).parent().send_signal(signal.SIGUSR2)
    thread.join()
    assert {one.job.name: one.status for one in ended} == {"a": 0, "b": 0, "wrong": 1}
    assert numbers(Path("a")) == list(range(20))
    first, second = processes(Path("a"))
    lines = Path("a").read_text().splitlines()
    assert lines[lines.index(f"saved {first}") + 1].endswith(f" {second}")


@submitit
def test_a_slurm_job_without_a_result_is_lost_and_submitted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)  # 15 for slow file systems
    engine = Slurm(cluster="local", slots=1)
    submitted = []
    submit = engine.submit
    engine.submit = lambda job: (submitted.append(job), submit(job))[1]
    ended: list = []
    thread = threading.Thread(target=lambda: ended.extend(run_all(engine, [counting("a", 20)])))
    thread.start()
    until(lambda: len(numbers(Path("a"))) > 3)
    (process,) = processes(Path("a"))
    for parent in psutil.Process(int(process)).parents()[1::-1]:
        parent.kill()  # submitit's process on the machine, and what watches it
    thread.join()
    assert [one.status for one in ended] == [0]
    assert len(submitted) == 2
    assert numbers(Path("a")) == list(range(20))
    assert "was lost" in Path("a.log").read_text()


@submitit
def test_closing_slurm_lets_a_job_save() -> None:
    engine = Slurm(cluster="local", slots=1)
    engine.submit(counting("a", 10**6))
    engine.submit(counting("b"))
    until(lambda: engine.wait(0.1) == [] and len(numbers(Path("a"))) > 2)
    engine.close()
    assert Path("a").read_text().splitlines()[-1].startswith("saved ")
    assert not Path("b").exists()


@submitit
def test_slurm_is_looked_for() -> None:
    with pytest.raises(ConfigError, match="there is no srun here"):
        Slurm()


@pytest.mark.slow
@submitit
def test_an_array_of_slurm_jobs_is_pre_empted_and_loses_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's commands are emulated. `a` is pre-empted as Slurm does it, with SIGTERM to all its
    processes and then the signal that submitit asked for; `b` loses its machine."""
    slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "slurm"), os.environ["PATH"]]))
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)
    engine = Slurm(
        partition="short", cpus=2, minutes=90, slots=2, additional_parameters={"nice": 7}
    )
    jobs = [counting("a", 30, 0.1), counting("b", 30, 0.1), counting("c"), counting("d")]
    ended: list = []
    thread = threading.Thread(target=lambda: ended.extend(run_all(engine, jobs)))
    thread.start()
    until(lambda: len(numbers(Path("a"))) > 3 and len(numbers(Path("b"))) > 3)
    assert not Path("c").exists()  # two at a time
    process = psutil.Process(int(processes(Path("a"))[0]))
    task = process.parent()
    for one in (task, process):
        with contextlib.suppress(psutil.NoSuchProcess):  # the task passes its signal on
            one.terminate()
    until(lambda: "saved" in Path("a").read_text())
    task.send_signal(signal.SIGUSR2)
    psutil.Process(int(processes(Path("b"))[0])).parent().kill()
    thread.join()
    assert {one.job.name: one.status for one in ended} == dict.fromkeys("abcd", 0)
    for name, steps in (("a", 30), ("b", 30), ("c", 5), ("d", 5)):
        assert numbers(Path(name)) == list(range(steps))
        assert len(processes(Path(name))) == (2 if name in "ab" else 1)
        assert ("was lost" in Path(f"{name}.log").read_text()) == (name == "b")
    assert last_line(Path("d.log")) == "counted to 5 with 2 threads"
    first, second = (Path(f"slurm/{n}.sh").read_text() for n in (1, 2))
    assert "--array" not in second  # b, alone
    for words in ("--array=0-3%2", "--partition=short", "--cpus-per-task=2", "--time=90",
                  "--requeue", "--nice=7", "--job-name=ddiff", "--signal=USR2@90"):  # fmt: skip
        assert f"#SBATCH {words}" in first

    engine.submit(counting("endless", 10**6))
    engine.submit(counting("waiting", 10**6))
    engine.submit(counting("queued"))
    engine.wait(0)
    until(lambda: len(numbers(Path("endless"))) > 2)
    engine.close()
    assert Path("endless").read_text().splitlines()[-1].startswith("saved ")
    assert not Path("queued").exists()

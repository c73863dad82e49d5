"""An emulation of Slurm on this machine: as much of its commands as submitit calls.

`install(folder)` writes `sbatch`, `srun`, `scontrol`, `scancel` and `sacct` into a folder for PATH.
Each is this module, and the state of each task of an array is a file in that folder.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol", "scancel", "sacct")
PLACE = Path(os.environ.get("FAKE_SLURM", "."))
KILL_WAIT = 5.0


def install(folder: Path) -> None:
    folder.mkdir()
    for command in COMMANDS:
        file = folder / command
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.slurm {command} "$@"\n')
        file.chmod(0o755)


def note(task: str, state: str) -> None:
    (PLACE / f"{task}.state").write_text(state)


def state(task: str) -> str:
    return (PLACE / f"{task}.state").read_text()


def sbatch(file: str) -> None:
    text = Path(file).read_text()
    number = len(list(PLACE.glob("*.sh"))) + 1
    script = PLACE / f"{number}.sh"
    script.write_text(text)
    subprocess.Popen(
        [sys.executable, "-m", "tests.support.slurm", "control", str(number)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {number}")


def control(number: str) -> None:
    """Run the tasks of an array, so many at a time, each again as often as it is requeued."""
    script = PLACE / f"{number}.sh"
    array = re.search(r"--array=0-(\d+)%(\d+)", script.read_text())
    last, at_a_time = map(int, array.groups()) if array else (0, 1)
    names = [f"{number}_{n}" for n in range(last + 1)] if array else [number]
    room = threading.Semaphore(at_a_time)
    for name in names:
        note(name, "PENDING")

    def run(name: str, index: int) -> None:
        own = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
        own |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
        if array:
            own |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
        with room:
            while state(name) == "PENDING":
                process = subprocess.Popen(
                    ["bash", str(script)], env={**os.environ, **own}, start_new_session=True
                )
                (PLACE / f"{name}.pid").write_text(str(process.pid))
                note(name, "RUNNING")
                status = process.wait()
                if state(name) == "REQUEUED":
                    note(name, "PENDING")
                elif state(name) == "RUNNING":
                    note(name, "FAILED" if status else "COMPLETED")

    threads = [threading.Thread(target=run, args=(name, n)) for n, name in enumerate(names)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)  # in their order


def srun(*words: str) -> None:
    """Become the command, as the only task of a step."""
    left = list(words)
    while left[0].startswith("--"):
        flag = left.pop(0)
        if flag in ("--output", "--error"):
            pattern = left.pop(0)
            for sign, name in (("%A", "ARRAY_JOB_ID"), ("%a", "ARRAY_TASK_ID"), ("%j", "JOB_ID")):
                pattern = pattern.replace(sign, os.environ.get(f"SLURM_{name}", ""))
            file = os.open(pattern.replace("%t", "0"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1 if flag == "--output" else 2)
    os.execvp(left[0], left)


def scontrol(word: str, task: str) -> None:
    assert word == "requeue"
    note(task, "REQUEUED")


def scancel(task: str) -> None:
    """SIGTERM to all processes of the task, and SIGKILL to those that are left."""
    before = state(task)
    if before not in ("PENDING", "RUNNING"):
        return
    note(task, "CANCELLED")
    if before == "PENDING":
        return
    everyone = below(int((PLACE / f"{task}.pid").read_text()))
    for signum, seconds in ((signal.SIGTERM, KILL_WAIT), (signal.SIGKILL, 0.0)):
        for one in everyone:
            if alive(one):
                os.kill(one, signum)
        until = time.monotonic() + seconds
        while any(map(alive, everyone)) and time.monotonic() < until:
            time.sleep(0.05)


def sacct(*words: str) -> None:
    print("JobID|State|NodeList")
    for number in [word for word in words if word.isdigit()]:
        for file in PLACE.glob(f"{number}*.state"):
            print(f"{file.stem}|{file.read_text()}|here")


def below(process: int) -> list[int]:
    """A process and all that it started, and they."""
    import psutil

    one = psutil.Process(process)
    return [process, *(child.pid for child in one.children(recursive=True))]


def alive(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

"""Runs verbs of ddiff one after another, each in a forked child, so that imports are paid once.

Reads a JSON list from stdin: {"verb", "argv", "kill_at", "seconds"}; with `kill_at` a training dies
by SIGKILL inside the training step after that optimiser step; a command that takes longer than
`seconds` is ended. The arguments are modules to import before the forks.
Prints [{"status", "out", "err"}, ...] as JSON.
"""

import importlib
import json
import os
import signal
import sys
import tempfile
import traceback

import lightning.pytorch  # noqa: F401
import torch

from ddiff.training.modules import DDPM


def die_at(step: int) -> None:
    original = DDPM.training_step

    def training_step(self: DDPM, *args: object) -> object:
        if self.trainer.global_step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)

    DDPM.training_step = training_step


def child(verb: str, argv: list[str], kill_at: int | None, seconds: int) -> int:
    torch.set_num_threads(1)
    signal.alarm(seconds)
    if kill_at is not None:
        die_at(kill_at)
    module = importlib.import_module("ddiff.data.__main__" if verb == "data" else f"ddiff.{verb}")
    sys.argv = [f"ddiff.{verb}", *argv]
    try:
        module.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def fork(verb: str, argv: list[str], kill_at: int | None = None, seconds: int = 0) -> dict:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = child(verb, argv, kill_at, seconds)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, err):
            file.seek(0)
        return {"status": status, "out": out.read(), "err": err.read()}


for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([fork(**job) for job in json.load(sys.stdin)]))

"""A server that runs verbs of ddiff, each in a forked child, so that imports are paid once.

Reads a line of JSON for each command from stdin: {"verb", "argv", "kill_at", "seconds", "env",
"cwd"}, and answers each with a line {"status", "out", "err"}. With `kill_at` a training dies by
SIGKILL inside the training step after that optimiser step; a command that takes longer than
`seconds` is ended.
"""

import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback

import torch

from ddiff.training.modules import Learner

PRELOADED = (  # what verbs import on their way, so that no child has to
    "ddiff.artifacts.writing",
    "ddiff.benchmarking",
    "ddiff.data.cifar",
    "ddiff.data.digits",
    "ddiff.data.images",
    "ddiff.data.latent",
    "ddiff.data.mnist",
    "ddiff.data.shapes",
    "ddiff.data.voxels",
    "ddiff.memory",
    "ddiff.metrics.by_features",
    "ddiff.metrics.by_pairs",
    "ddiff.metrics.by_volumes",
    "ddiff.metrics.evaluation",
    "ddiff.pages.report.comparison",
    "ddiff.pages.report.page",
    "ddiff.pages.report.plots",
    "ddiff.pages.view.page",
    "ddiff.pages.view.pictures",
    "ddiff.sampling.writing",
    "ddiff.training.run",
    "ddiff.training.scoring",
    "sklearn.datasets",
    "torch._dynamo",
)


def die_at(step: int) -> None:
    original = Learner.next_words  # the first thing that a training step asks for

    def next_words(self: Learner, device: torch.device) -> object:
        if self.trainer.global_step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, device)

    Learner.next_words = next_words


def child(
    verb: str, argv: list[str], kill_at: int | None, seconds: int, env: dict[str, str], cwd: str
) -> int:
    os.chdir(cwd)
    os.environ.update(env)
    torch.set_num_threads(1)
    signal.alarm(seconds)
    if kill_at is not None:
        die_at(kill_at)
    package = verb in ("data", "study")
    module = importlib.import_module(f"ddiff.{verb}" + (".__main__" if package else ""))
    sys.argv = [f"ddiff.{verb}", *argv]
    try:
        module.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def fork(
    verb: str, argv: list[str], kill_at: int | None, seconds: int, env: dict[str, str], cwd: str
) -> dict:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = child(verb, argv, kill_at, seconds, env, cwd)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, err):
            file.seek(0)
        return {"status": status, "out": out.read(), "err": err.read()}


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # children neither look through what was imported nor copy its pages
    for line in sys.stdin:
        print(json.dumps(fork(**json.loads(line))), flush=True)

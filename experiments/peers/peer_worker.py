"""One contestant in a process of its own, told over a pipe what to do: `measure.py` starts it.

Orders are lines on stdin (start, peak, turn, whole), answers lines of JSON on stdout. A worker
that cannot go on dies with the reason as the last line of stderr.
"""

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lineup import Row
from torch import nn

from ddiff.benchmarking.training import Steps
from ddiff.build import build, build_backend, build_net, build_precision
from ddiff.config.options import Train
from ddiff.config.validation import train_options
from ddiff.diffusion import ClassifierFree
from ddiff.sampling.generation import Generation
from ddiff.system.random import key
from ddiff.training.building import build_module
from ddiff.training.modules import DDPM

CONF = Path(__file__).parent / "conf"
PLAN = ("solver=ddim", "solver.num_steps=20", "solver.spacing=trailing")
TURN = 1.0  # seconds of work in a turn, where a step is shorter


def composed(row: Row, shape: tuple[int, ...]) -> Train:
    """The row's config, whole and valid; `train` names all that either mode needs."""
    words = [f"hydra.searchpath=[file://{CONF}]", *row.options, *PLAN]
    cfg = train_options(*words)
    cfg.net.shape = list(shape)
    return cfg


class Training:
    """ddiff's training step around the row's net: noise, forward, loss, backward, clipping,
    optimiser, averaged weights."""

    def __init__(self, row: Row, shape: tuple[int, ...], device: torch.device) -> None:
        cfg = composed(row, shape)
        module = build_module(cfg, build_precision(cfg.precision, device)).to(device)
        assert isinstance(module, DDPM)
        if row.contiguous:
            module.net.to(memory_format=torch.contiguous_format)  # pyright: ignore
        x_0 = torch.rand(row.batch, *shape, device=device) * 2 - 1
        self.steps = Steps(module, cfg.trainer.gradient_clip_val, x_0, None)

    def __call__(self) -> None:
        self.loss = self.steps()

    def rest(self) -> None:
        self.steps.module.net.zero_grad()
        if not bool(self.loss.isfinite()):
            raise RuntimeError(f"the loss is {self.loss.item()}")


class Sampling:
    """ddiff's sampling step around the row's net: an evaluation of it, and a step of DDIM."""

    def __init__(self, row: Row, shape: tuple[int, ...], device: torch.device) -> None:
        cfg = composed(row, shape)
        precision = build_precision(cfg.precision, device)
        torch.manual_seed(key(cfg.seed, "weights"))
        net = build_net(cfg.net).requires_grad_(False).eval().to(device)
        if row.contiguous:
            net.to(memory_format=torch.contiguous_format)  # pyright: ignore
        if row.bf16_weights:
            for part in net.modules():
                if isinstance(part, nn.Conv2d | nn.Conv3d | nn.Linear):
                    part.to(torch.bfloat16)
        self.generation = Generation(
            net=net,
            shape=shape,
            num_classes=None,
            objective=build(cfg.objective),
            plan=build(cfg.solver)(build(cfg.schedule)),
            guidance=ClassifierFree(),
            precision=precision,
            seed=cfg.seed,
            clamp=cfg.sampling.clamp,
            backend=build_backend(cfg.backend, device),
        )
        self.batch, self.states = row.batch, iter(())

    def __call__(self) -> None:
        for x in self.states:
            self.x = x
            return
        self.states = self.generation.steps(range(self.batch))
        self.x = next(self.states)

    def rest(self) -> None:
        if not bool(self.x.isfinite().all()):
            raise RuntimeError("samples are not finite")


class Worker:
    """Obeys one order after another; each answers with what it measured."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.row, self.shape = Row(**task["row"]), tuple(task["shape"])
        self.kind = {"training": Training, "sampling": Sampling}[task["mode"]]
        self.device = torch.device(task["device"])
        self.before = resident("VmRSS")  # the interpreter and its libraries

    def start(self) -> dict[str, Any]:
        self.unit = self.kind(self.row, self.shape, self.device)
        self.unit()
        self.synchronised()
        return {"precision": self.precision(), "threads": torch.get_num_threads()}

    def precision(self) -> str:
        cfg = composed(self.row, self.shape)
        return build(cfg.precision).on(self.device).dtype

    def peak(self) -> dict[str, Any]:
        """Memory of a step, all that the row needs included; and a first idea of its time."""
        self.rest()
        restart_peak(self.device)
        self.last = self.timed(1)
        if self.device.type == "cuda":
            return {"memory": torch.cuda.max_memory_allocated(self.device)}
        return {"memory": resident("VmHWM") - self.before}

    def turn(self) -> dict[str, Any]:
        """Seconds of a step; short ones are repeated, after one that finds the caches cold."""
        if self.last < TURN:
            self.unit()
        self.last = self.timed(max(1, min(20, round(TURN / self.last))))
        self.rest()
        return {"seconds": self.last}

    def whole(self) -> dict[str, Any]:
        """Seconds of a sampling from noise to samples."""
        steps = len(self.unit.generation.plan)
        self.unit.states = iter(())
        return {"whole": self.timed(steps) * steps}

    def timed(self, steps: int) -> float:
        self.synchronised()
        began = time.perf_counter()
        for _ in range(steps):
            self.unit()
        self.synchronised()
        return (time.perf_counter() - began) / steps

    def synchronised(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rest(self) -> None:
        """Gives back what it can while others work."""
        self.unit.rest()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        ctypes.CDLL(None).malloc_trim(0)


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process, bytes; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def restart_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    Path("/proc/self/clear_refs").write_text("5")


def serve(orders: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """Answers until stdin ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(orders[line.strip()]()), file=answers, flush=True)


if __name__ == "__main__":
    worker = Worker(json.loads(sys.argv[1]))
    names = ("start", "peak", "turn", "whole")
    serve({name: getattr(worker, name) for name in names})

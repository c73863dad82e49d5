"""What marks that nobody hears and `profiler=simple` cost in a step of digits, two ways:

python tests/profiling/overhead.py --rounds 5 --steps 30

alone: the listener's calls of one recorded step, played again and again without the step;
paired: whole trainings with and without `simple`, in turns; the median step of each.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from hydra import compose, initialize_config_module
from lightning.pytorch import Callback
from lightning.pytorch.profilers import PassThroughProfiler, Profiler

from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.trees import resolved
from ddiff.profiling.loop import LoopProfiler
from ddiff.profiling.timeline import Timeline, clock_for
from ddiff.system.devices import device_for
from ddiff.system.phases import listening, phase
from ddiff.training.building import build_module, build_trainer, fill_in_data_facts

Call = tuple[str, str]  # start | stop | enter | leave, and of what


class Stopwatch(Callback):
    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.moments.append(time.perf_counter())

    @property
    def step(self) -> float:
        gaps = [b - a for a, b in zip(self.moments[4:], self.moments[5:], strict=False)]
        return median(gaps)


class Written(LoopProfiler):
    """Writes down Lightning's calls, and those of marks, of the third step."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(timeline)
        self.calls: list[Call] = []
        self.fetches = 0

    def start(self, action_name: str) -> None:
        self.fetches += action_name.endswith("train_dataloader_next")
        self._write("start", action_name)
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        self._write("stop", action_name)
        super().stop(action_name)

    def enter(self, name: str) -> None:
        self._write("enter", name)
        self.timeline.enter(name)

    def leave(self) -> None:
        self._write("leave", "")
        self.timeline.leave()

    def _write(self, what: str, name: str) -> None:
        if self.fetches == 3:
            self.calls.append((what, name))


def replayed(calls: list[Call], profiler: Profiler, times: int) -> float:
    """Seconds a step for the calls alone, the best of several."""
    marks: list[Any] = []

    def once() -> None:
        for what, name in calls:
            if what == "start":
                profiler.start(name)
            elif what == "stop":
                profiler.stop(name)
            elif what == "enter":
                marks.append(phase(name))
                marks[-1].__enter__()
            else:
                marks.pop().__exit__(None, None, None)

    return min(_seconds(once, times) for _ in range(7)) / times


def _seconds(work: Callable[[], None], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--override", action="append", default=[], help="net=unet_small ...")
    given = options.parse_args()
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        words = ["experiment=digits_ddpm", "trainer.limit_val_batches=0", *given.override]
        cfg = resolved(compose("train", [*words, f"budget.max_steps={given.steps}"]))
    device = device_for(cfg.trainer.accelerator)
    data = build(cfg.data)
    data.prepare_data()
    data.setup("fit")
    fill_in_data_facts(cfg, data)
    precision = build_precision(cfg.precision, device)

    def train(profiler: Profiler | None, listener: Any) -> float:
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(cfg, Path(folder), False, [watch], precision)
            trainer.profiler = profiler or PassThroughProfiler()  # pyright: ignore
            with listening(listener) if listener else nullcontext():
                trainer.fit(build_module(cfg, precision), data)
        return watch.step

    def simple() -> tuple[Profiler, Timeline]:
        timeline = Timeline(clock_for(device))
        return LoopProfiler(timeline), timeline

    written = Written(Timeline(clock_for(device)))
    train(written, written)
    rows: dict[str, list[float]] = {"none": [], "simple": []}
    for _ in range(given.rounds):
        rows["none"].append(train(None, None))
        rows["simple"].append(train(*simple()))
    step = median(rows["none"])
    quiet = replayed(written.calls, PassThroughProfiler(), 200)
    marks = [call for call in written.calls if call[0] in ("enter", "leave")]
    unheard = replayed(marks, PassThroughProfiler(), 200)
    profiler, timeline = simple()
    with listening(timeline):
        heard = replayed(written.calls, profiler, 200)
    ratios = [b / a for a, b in zip(*rows.values(), strict=True)]
    print(f"step of digits_ddpm            {1e3 * step:.2f} ms on {device.type}")
    print(f"alone, marks unheard           {1e6 * unheard:.1f} us a step, {unheard / step:.4%}")
    print(f"alone, simple                  {1e6 * (heard - quiet):.1f} us a step, "
          f"{(heard - quiet) / step:.4%}")  # fmt: skip
    print(f"paired, simple over none       {median(ratios):.4f} "
          f"({min(ratios):.4f} to {max(ratios):.4f}, {given.rounds} rounds)")  # fmt: skip


if __name__ == "__main__":
    main()

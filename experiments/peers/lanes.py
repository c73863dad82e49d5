"""Processes that wait for orders, and the order in which they get them: one works at a time."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WHOLE = 60.0  # seconds that a whole sampling may take, to be measured


class Trouble(Exception):
    """Why a worker cannot go on."""


@dataclass(eq=False)
class Lane:
    """A worker: its command, a file for what it says, and its process once it is started."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    process: subprocess.Popen[str] | None = None
    found: dict[str, Any] = field(default_factory=lambda: {"seconds": []})

    def ask(self, order: str) -> dict[str, Any]:
        """The worker's answer. Raises Trouble with its last words if it dies."""
        process = self.process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(order, file=process.stdin, flush=True)
        except BrokenPipeError:
            raise Trouble(self._last_words(process)) from None
        if answer := process.stdout.readline():
            return json.loads(answer)
        raise Trouble(self._last_words(process))

    def close(self) -> None:
        """The worker ends with its stdin."""
        if self.process is not None:
            self.process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=self.env, text=True,
            )  # fmt: skip
        return self.process

    def _last_words(self, process: subprocess.Popen[str]) -> str:
        status = process.wait()
        if status < 0:
            return f"it was stopped by {signal.Signals(-status).name}"
        lines = self.log.read_text().strip().splitlines()
        return lines[-1] if lines else f"it ended with status {status}"


def race(lanes: Sequence[Lane], rounds: int, samplings: int, tell: Callable[[str], None]) -> None:
    """Fills in what each lane found: a cold start and a peak of memory each, then rounds of all.

    samplings: steps of a whole sampling, measured last where it is short enough; 0: there is none.
    """
    orders = ["start", "peak", *["turn"] * rounds, *["whole"] * bool(samplings)]
    for number, order in enumerate(orders):
        for lane in lanes:
            last = lane.found["seconds"][-1:]
            if "trouble" in lane.found or (order == "whole" and samplings * last[0] > WHOLE):
                continue
            tell(f"{number + 1}/{len(orders)} {order}: {lane.name}")
            began = time.perf_counter()
            try:
                answer = lane.ask(order)
            except Trouble as trouble:
                lane.found = {"seconds": [], "trouble": str(trouble)}
                continue
            if order == "start":
                answer["cold_start"] = time.perf_counter() - began
            if order == "turn":
                lane.found["seconds"].append(answer["seconds"])
            else:
                lane.found |= answer

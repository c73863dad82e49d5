"""One setting in a process of its own: `python worker.py DEVICE OPTION...`, then a word a line."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ddiff.build import build_precision
from ddiff.config.targets import build
from ddiff.config.validation import train_options
from ddiff.memory import Step, Tally, predicted
from ddiff.training.building import build_module, fill_in_data_facts
from ddiff.training.modules.learner import Batch


class Subject:
    def __init__(self, device: torch.device, options: list[str]) -> None:
        self.cfg = train_options(*options)
        self.device = device
        self.data: Any = build(self.cfg.data)
        fill_in_data_facts(self.cfg, self.data)
        precision = build_precision(self.cfg.precision, device)
        self.module = build_module(self.cfg, precision)

    def predict(self) -> dict[str, Any]:
        """Bytes of the training; what the dry run itself added to the process."""
        started = time.perf_counter()
        peak = predicted(self.cfg, self.module, self.device)[0]
        seconds = time.perf_counter() - started
        return {"predicted": peak.total, "parts": peak.parts, "predicted_in": seconds}

    def count(self, cap: float) -> dict[str, Any]:
        """Bytes that two real steps held: on a CPU by the tally and by the system, on a GPU by the
        allocator, first without and then under a cap of so many GB."""
        self.data.setup("fit")
        self.module.to(self.device)
        x_0, y = next(iter(self.data.train_dataloader()))
        self.batch: Batch = x_0.to(self.device), None if y is None else y.to(self.device)
        return self._on_gpu(cap) if self.device.type == "cuda" else self._on_cpu()

    def _on_cpu(self) -> dict[str, Any]:
        before = status("VmRSS")
        tally = Tally()
        tally.name("weights", [*self.module.parameters(), *self.module.buffers()])
        with tally:
            ahead = torch.empty_like(self.batch[0])  # as the loader holds
            tally.name("batch", [self.batch[0]])
            tally.begin("training")
            self.step = Step(self.cfg, self.module, self.batch, tally)
            for _ in range(2):
                self.step(self.step.parts)
        del ahead
        (peak,) = tally.peaks()
        return {"counted": peak.total, "resident": status("VmHWM"), "resident_before": before}

    def _on_gpu(self, cap: float) -> dict[str, Any]:
        self.step = Step(self.cfg, self.module, self.batch)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            self.step(self.step.parts)
        torch.cuda.synchronize()
        counted, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(cap * 1e9 / whole)
        try:
            self.step(self.step.parts)
            fits = True
        except torch.OutOfMemoryError:
            fits = False
        torch.cuda.set_per_process_memory_fraction(1.0)
        return {"counted": counted, "reserved": reserved, "under_the_cap": fits}

    def timed(self) -> dict[str, float]:
        started = time.perf_counter()
        self.step(self.step.parts)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - started}


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    subject = Subject(torch.device(sys.argv[1]), sys.argv[2:])
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "predict":
            answer = subject.predict()
        elif word == "count":
            answer = subject.count(float(arguments[0]))
        else:
            answer = subject.timed()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

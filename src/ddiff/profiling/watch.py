"""From the first step to the report: who listens when, and what is written in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddiff.profiling import tables
from ddiff.profiling.clocks import clock_for
from ddiff.profiling.memory import Memory, memory_in
from ddiff.profiling.options import Subject
from ddiff.profiling.recording import Recording, marked_in, operators
from ddiff.profiling.summary import curves, phases_of, summary
from ddiff.profiling.timeline import Timeline
from ddiff.system.console import console, show_table
from ddiff.system.files import write_json
from ddiff.system.phases import listening


@contextmanager
def watching(subject: Subject, warmup: int, active: int = 0) -> Iterator[Timeline]:
    """Listens inside. Steps that torch.profiler records, and slows, are not timed."""
    watch = Watch(subject, warmup, active)
    try:
        with listening(watch.timeline):
            yield watch.timeline
    finally:
        watch.finish()


class Watch:
    def __init__(self, subject: Subject, warmup: int, active: int) -> None:
        self.subject, self.warmup, self.active = subject, warmup, active
        self.recording = Recording(subject.device) if active else None
        self.recorded = active + 1 if active else 0
        self.held: dict[str, int] = {}
        self.timeline = Timeline(clock_for(subject.device), self._timed, self._ended)

    def _timed(self, number: int) -> bool:
        return number > self.warmup + self.recorded

    def _ended(self, number: int) -> None:
        if self.recording is None:
            return
        if number == self.warmup:
            self._record()
        elif number == self.warmup + self.recorded:
            self._stop(self.recording)

    def _record(self) -> None:
        assert self.recording is not None
        self.held = self.subject.held()
        self.recording.start()
        self.timeline.annotate = self.recording.annotate

    def _stop(self, recording: Recording) -> None:
        self.timeline.annotate = None
        recording.stop()

    def finish(self) -> None:
        """Writes and prints what there is."""
        if self.recording and self.recording.running:
            self._stop(self.recording)
        self.timeline.close()
        if not self.timeline.ledger.numbers:
            recorded = f" and the {self.recorded} recorded ones" if self.recorded else ""
            console.print(
                f"profiler    nothing to say: {self.timeline.steps} steps ended, and the "
                f"profiler.warmup={self.warmup} first{recorded} are not timed; take more steps "
                "or a shorter warm-up"
            )
            return
        profile = self._profile()
        memory = self._recorded(profile) if self.recording else None
        folder = self.subject.folder
        write_json(folder / "profile.json", rounded(profile))
        self._show(profile, memory)
        _print(profile, folder)

    def _profile(self) -> dict[str, Any]:
        return {
            "kind": self.subject.kind,
            "device": self.subject.device.type,
            "clock": self.timeline.clock.name,
            "steps": {"timed": len(self.timeline.ledger.numbers), "before": self.warmup,
                      "recorded": self.active},
            **summary(phases_of(self.timeline.ledger)),
            "apart_seconds": self.timeline.apart,
        }  # fmt: skip

    def _recorded(self, profile: dict[str, Any]) -> Memory:
        assert self.recording is not None
        self.subject.folder.mkdir(parents=True, exist_ok=True)
        events = self.recording.write_trace(self.subject.folder / "trace.json.gz")
        turns = marked_in(events)
        cuda = self.subject.device.type == "cuda"
        memory = memory_in(events, turns, self.held, cuda)
        profile["operators"] = operators(self.recording)
        profile["memory_mb"] = {
            "peak": memory.peak / 1e6,
            "at_peak": {name: size / 1e6 for name, size in memory.at_peak().items()},
        }
        return memory

    def _show(self, profile: dict[str, Any], memory: Memory | None) -> None:
        """In TensorBoard: curves, tables as text, the picture."""
        board, ledger = self.subject.board(), self.timeline.ledger
        for tag, value, step in curves(ledger, self.subject.first_step):
            board.add_scalar(tag, value, step)
        last = self.subject.first_step + ledger.numbers[-1]
        text = f"{tables.markdown(tables.phases(profile))}\n\nStep: {tables.steps(profile)}"
        board.add_text("profile/phases", text, last)
        if memory is not None:
            from ddiff.profiling.picture import draw

            cuda = profile["device"] == "cuda"
            by_time = tables.top(profile["operators"], "device_ms" if cuda else "ms", cuda)
            by_memory = tables.top(profile["operators"], "mb", cuda)
            board.add_text("profile/operators by time", tables.markdown(by_time), last)
            board.add_text("profile/operators by memory", tables.markdown(by_memory), last)
            picture = draw(memory, self.subject.folder / "memory.png")
            board.add_image("profile/memory", picture, last, dataformats="HWC")
        board.flush()


def _print(profile: dict[str, Any], folder: Path) -> None:
    show_table(*tables.phases(profile), title=f"{profile['kind']}, by {profile['clock']}")
    console.print()
    console.print(f"step        {tables.steps(profile)}")
    if profile["apart_seconds"]:
        console.print(f"apart       {tables.apart(profile)}")
    console.print(f"profile     {folder / 'profile.json'}")
    if "operators" in profile:
        console.print(f"memory      {folder / 'memory.png'}")
        console.print(
            f"trace       {folder / 'trace.json.gz'}: open it at https://ui.perfetto.dev or "
            "chrome://tracing"
        )


def rounded(value: Any) -> Any:
    """Six digits that count."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value

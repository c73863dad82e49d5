"""Operators, shapes and memory, against counts that are known beforehand."""

import gzip
import json

import numpy as np
import pytest
import torch
from torch import nn

from ddiff.profiling.memory import memory_in
from ddiff.profiling.recording import Turns, marked_in, operators, recorder, write_trace
from ddiff.profiling.timeline import HostClock, Timeline
from ddiff.system.phases import listening, phase, step

WIDTH, BATCH = 64, 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three training steps of two layers, and the trace of them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.ReLU(),
                        nn.Linear(2 * WIDTH, WIDTH, bias=False))  # fmt: skip
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    profiler = recorder(CPU)
    timeline = Timeline(HostClock())
    timeline.annotate = torch.profiler.record_function
    profiler.start()
    with listening(timeline):
        for _ in range(3):
            with step():
                with phase("data"):
                    x = torch.randn(BATCH, WIDTH)
                with phase("forward"):
                    y = net(x)
                with phase("loss"):
                    loss = y.square().mean()
                optimiser.zero_grad()
                with phase("backward"):
                    loss.backward()
                with phase("optimiser"):
                    optimiser.step()
                del x, y, loss
    profiler.stop()
    path = tmp_path_factory.mktemp("trace") / "trace.json.gz"
    return profiler, write_trace(profiler, path), path


def test_operators_are_counted_a_step_with_shapes_and_phases(recorded):
    found = operators(recorded[0], cuda=False)
    layers = [o for o in found if (o["name"], o["phase"]) == ("aten::mm", "forward")]
    assert {o["shapes"]: o["calls"] for o in layers} == {
        f"{BATCH}x{WIDTH}, {WIDTH}x{2 * WIDTH}": 1,
        f"{BATCH}x{2 * WIDTH}, {2 * WIDTH}x{WIDTH}": 1,
    }
    backward = [o for o in found if (o["name"], o["phase"]) == ("aten::mm", "backward")]
    assert sum(o["calls"] for o in backward) == 3  # the data need no gradient
    assert sum(o["mb"] for o in layers) == pytest.approx(BATCH * 3 * WIDTH * 4 / 1e6)
    assert all(o["calls"] > 0 for o in found)
    drawn = [o for o in found if (o["name"], o["phase"]) == ("aten::randn", "data")]
    assert sum(o["mb"] for o in drawn) == pytest.approx(BATCH * WIDTH * 4 / 1e6)
    assert not any(o["name"].startswith(("phase", "step")) for o in found)
    assert [o["ms"] for o in found] == sorted((o["ms"] for o in found), reverse=True)


def test_own_times_add_up_to_those_of_the_outermost_operators(recorded):
    profiler, events, _ = recorded
    ops = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "cpu_op")
    steps = [e["ts"] for e in events if e["name"] == "step 2"]
    total, until = 0.0, steps[0]
    for start, end in ops:
        if start >= until:
            total, until = total + end - start, end
    own = sum(o["ms"] for o in operators(profiler, cuda=False))
    assert own == pytest.approx(total / 2 / 1e3, rel=0.01)


def test_phases_are_seen_in_the_trace_file(recorded):
    with gzip.open(recorded[2], "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [e["name"] for e in events if e.get("cat") == "user_annotation"]
    for name in ("step 1", "step 2", "step 3"):
        assert names.count(name) == 1
    for name in ("data", "forward", "loss", "backward", "optimiser"):
        assert names.count(f"phase: {name}") == 3


def test_memory_is_what_the_tensors_weigh(recorded):
    held = {"weights": 2 * 2 * WIDTH * WIDTH * 4}
    _, events, _ = recorded
    memory = memory_in(events, marked_in(events), held, cuda=False)
    rows = dict(zip(memory.categories, memory.sizes, strict=True))
    gradients = held["weights"]  # one number each
    activations = BATCH * (2 * WIDTH + WIDTH) * 4  # after the relu, and the output
    assert (rows["weights"] == held["weights"]).all()
    assert rows["gradients"][0] == rows["gradients"].max() == gradients  # of the step before
    assert rows["batch"].max() == BATCH * WIDTH * 4
    assert 0 <= rows["activations"].max() - activations <= 64  # and the loss itself
    assert all((row >= 0).all() for row in rows.values())
    assert (np.diff(memory.times) >= 0).all()
    assert memory.peak == memory.sizes.sum(0).max() == sum(memory.at_peak().values())
    assert memory.peak >= held["weights"] + gradients + activations


def test_a_block_of_unknown_use_on_a_gpu_is_from_before():
    def told(ts, size, total, address):
        args = {"Device Type": 1, "Bytes": size, "Total Allocated": total, "Addr": address}
        return {"name": "[memory]", "ts": ts, "args": args}

    events = [told(1, 10, 110, 7), told(11, 5, 115, 8), told(12, -5, 110, 8), told(19, -10, 100, 7)]
    turns = Turns.of([("step 1", 0, 9), ("phase: backward", 0.5, 3), ("step 2", 10, 20),
                      ("phase: forward", 11, 13)])  # fmt: skip
    memory = memory_in(events, turns, {"weights": 60}, cuda=True)
    assert memory.at_peak() == {"weights": 60, "from before": 40, "gradients": 10, "temporary": 5}
    assert memory.sizes.sum(0)[-1] == 100
    assert memory.phases[1:3] == [(1, 3, "forward"), (3, 10, "other")]


def test_turns_know_the_innermost_phase():
    marked = [("phase: optimiser", 1, 9), ("phase: backward", 3, 5), ("step 1", 0, 10),
              ("step 2", 10, 20)]  # fmt: skip
    turns = Turns.of(marked)
    assert [turns.at(t) for t in (-1, 0.5, 2, 4, 6, 9.5, 15, 25)] == [
        (0, "other"), (1, "other"), (1, "optimiser"), (1, "backward"), (1, "optimiser"),
        (1, "other"), (2, "other"), (0, "other")]  # fmt: skip

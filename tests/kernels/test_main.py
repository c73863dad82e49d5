"""python -m ddiff.kernels: what it builds, finds wrong, measures and says."""

import json
import subprocess
import sys
import time

import pytest
import torch

import ddiff.kernels
from ddiff.kernels import building, measuring
from ddiff.kernels.__main__ import main
from ddiff.kernels.measuring import Case
from tests.kernels.operations import write_operation

CASES = """\
import ctypes
import torch
from ddiff.kernels.building import load
from ddiff.kernels.measuring import Case

def native(values):
    result = values.clone()
    load("{name}", "cpu").scale(ctypes.c_void_p(result.data_ptr()), ctypes.c_long(values.numel()))
    return [result]

def cases(device):
    values = torch.arange(1000.0, device=device)
    reference = lambda: [3 * values + {offset}]
    return [Case("1000, fp32", lambda: native(values), reference, reference, 8000, 1e-6)]
"""


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A folder that ddiff takes for its kernels/, with room for operations."""
    root = tmp_path / "kernels"
    source = building.ROOT / "stream_copy"
    (root / "stream_copy").mkdir(parents=True)
    (root / "stream_copy" / "stream_copy.cpp").symlink_to(source / "stream_copy.cpp")
    monkeypatch.setattr(building, "ROOT", root)
    monkeypatch.setattr(ddiff.kernels, "__path__", [*ddiff.kernels.__path__, str(root)])
    monkeypatch.setattr(measuring, "COPY_BYTES", (1 << 20) + 5)
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    building.load.cache_clear()
    yield root
    building.load.cache_clear()
    for name in [name for name in sys.modules if name.startswith("ddiff.kernels.mine")]:
        del sys.modules[name]


def write_cases(root, name, offset):
    folder = write_operation(root, name)
    (folder / "__init__.py").touch()
    (folder / "cases.py").write_text(CASES.format(name=name, offset=offset))


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kernels", *map(str, arguments)])
    main()


def tensors(*values):
    return lambda: [torch.tensor(value) for value in values]


@pytest.mark.parametrize(
    ("native", "reference", "expected"),
    [
        (tensors([1.0, 2.0], [5.0]), tensors([1.0, 2.5], [4.0]), 1.0),
        (tensors([3, 1]), tensors([3, 1]), 0.0),
        (tensors([1.0, float("nan")]), tensors([1.0, 2.0]), float("inf")),
        (tensors([0.0], [float("nan")], [0.0]), tensors([0.0], [1.0], [0.0]), float("inf")),
        (tensors([1.0]), tensors([[1.0]]), float("inf")),
        (tensors([1.0]), tensors([1]), float("inf")),
        (tensors([1.0], [2.0]), tensors([1.0]), float("inf")),
        (tensors([float("inf")]), tensors([float("inf")]), float("inf")),
    ],
)
def test_the_largest_difference(native, reference, expected):
    case = Case("", native, reference, lambda: None, 0, 0.0)
    assert measuring.max_error(case) == expected


def test_a_timing_is_the_median_and_half_the_middle_range():
    timing = measuring._timing([5.0, 1.0, 2.0, 100.0, 4.0])
    assert timing == measuring.Timing(4.0, 1.5, 5)
    assert timing.milliseconds() == {"median": 4000.0, "spread": 1500.0, "readings": 5}


def test_figures_follow_from_bytes_and_times(monkeypatch):
    times = {"native": 0.5, "reference": 2.0, "eager": 1.5, "copy": 0.25}
    timings = {name: measuring.Timing(time, 0.0, 3) for name, time in times.items()}
    monkeypatch.setattr(measuring, "interleaved", lambda calls, device: timings)
    case = Case("x", tensors([1.0]), tensors([1.0]), lambda: None, 3 * 10**9, 0.0)
    row = measuring.measured(case, "cpu", lambda: None)
    assert row["gb_per_second"] == 6.0
    assert row["copy_gb_per_second"] == 2 * measuring.COPY_BYTES / 0.25 / 1e9
    assert row["share_of_copy"] == row["gb_per_second"] / row["copy_gb_per_second"]
    assert row["speed_up_over_eager"] == 3.0
    assert row["speed_up_over_reference"] == 4.0


def test_calls_take_turns(monkeypatch):
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    monkeypatch.setattr(measuring, "SLICE", 0.0)  # one call a reading
    measuring.interleaved(calls, "cpu", rounds=5)
    assert order == [*"ab", *"ababababab"]  # once beforehand


def test_a_slow_call_is_read_three_times(monkeypatch):
    calls = {"quick": lambda: None, "slow": lambda: time.sleep(0.02)}
    monkeypatch.setattr(measuring, "SLICE", 0.0)
    monkeypatch.setattr(measuring, "BUDGET", 0.03)
    timings = measuring.interleaved(calls, "cpu", rounds=5)
    assert (timings["quick"].readings, timings["slow"].readings) == (5, 3)
    assert timings["slow"].median >= 0.02


def test_every_way_to_copy_copies(kernels):
    for way in measuring.copies("cpu").values():
        way()
        source, target = (cell.cell_contents for cell in way.__closure__ if is_tensor(cell))
        assert torch.equal(source, target)
        assert source.all()


def is_tensor(cell):
    return isinstance(cell.cell_contents, torch.Tensor)


def test_it_builds_checks_and_times(kernels, monkeypatch, capsys, tmp_path):
    write_cases(kernels, "mine", offset=0.5)
    call(monkeypatch, "--build")
    assert "built in" in capsys.readouterr().out
    call(monkeypatch, "--json", tmp_path / "figures.json")
    printed = capsys.readouterr().out
    assert "cached" in printed
    assert "0.0e+00 (1e-06)" in printed
    assert "fastest copy: " in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    [row] = figures["cases"]
    assert (row["operation"], row["case"], row["correct"]) == ("mine", "1000, fp32", True)
    seconds = row["milliseconds"]["native"]["median"] / 1000
    assert row["gb_per_second"] == pytest.approx(8000 / seconds / 1e9)
    assert figures["copy"] in ("torch copy_", "streaming copy")


def test_a_wrong_kernel_is_an_error_that_names_the_case(kernels, monkeypatch, capsys):
    write_cases(kernels, "mine_right", offset=0.5)
    write_cases(kernels, "mine_wrong", offset=0.75)
    call(monkeypatch, "--check", "mine_right")
    assert "GB/s" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "--check")
    assert exit_.value.code == 1
    printed = capsys.readouterr()
    assert "2.5e-01 (1e-06) WRONG" in printed.out
    assert printed.err == "ddiff: not as the reference says: mine_wrong 1000, fp32\n"


def test_an_unknown_operation_is_refused(kernels, monkeypatch, capsys):
    write_cases(kernels, "mine", offset=0.5)
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "mime")
    assert exit_.value.code == 2
    message = "ddiff: there is no operation 'mime'; did you mean 'mine'?\n"
    assert capsys.readouterr().err == message


def test_help_explains_without_torch():
    code = "import sys, runpy; sys.argv = ['kernels', '--help']\n"
    code += "try: runpy.run_module('ddiff.kernels', run_name='__main__')\n"
    code += "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "share of the fastest large copy" in done.stdout

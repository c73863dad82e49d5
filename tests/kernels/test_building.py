"""Kernels are built once, whatever happens to compilers, locks, processes and the cache."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from ddiff.kernels import building
from ddiff.kernels.building import library, load, opened
from ddiff.system.errors import KernelError
from ddiff.system.files import cache_folder
from tests.kernels.operations import (
    is_alive,
    scaled,
    start,
    wait_for,
    write_compiler,
    write_operation,
)

VALUES = torch.arange(10_000, dtype=torch.float32)
USE = """\
import sys
from pathlib import Path
import torch
from ddiff.kernels.building import library, opened
from tests.kernels.operations import scaled
found = library(Path(sys.argv[1]), "cpu")
print(found.built_in is not None, scaled(opened(found), torch.tensor([2.0])).item())
"""


@pytest.fixture
def operation(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return write_operation(tmp_path / "kernels")


def assert_right(found: building.Library) -> None:
    assert torch.equal(scaled(opened(found), VALUES), 3 * VALUES + 0.5)


def test_it_is_built_once_and_computes(operation, tmp_path):
    first = library(operation, "cpu")
    assert first.built_in > 0
    assert first.path.parent == tmp_path / "cache" / "kernels"
    assert_right(first)
    assert library(operation, "cpu") == building.Library(first.path, None)


def test_the_cache_follows_the_environment(operation, monkeypatch, tmp_path):
    monkeypatch.delenv("DDIFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("kernels") == tmp_path / "xdg" / "ddiff" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("kernels") == tmp_path / "home" / ".cache" / "ddiff" / "kernels"


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("scale/scale.cpp", "+ OFFSET", "- OFFSET", 5.5),
        ("scale/factor.h", "3.0f", "4.0f", 8.5),
        ("include/shared.h", "0.5f", "0.25f", 6.25),
    ],
)
def test_a_changed_source_is_built_anew(operation, file, old, new, expected):
    before = library(operation, "cpu")
    path = operation.parent / file
    path.write_text(path.read_text().replace(old, new))
    after = library(operation, "cpu")
    assert after.path != before.path
    assert scaled(opened(after), torch.tensor([2.0])).item() == expected


def test_another_version_of_torch_or_of_the_compiler_is_another_library(
    operation, monkeypatch, tmp_path
):
    paths = [library(operation, "cpu").path]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.0.0")
        paths.append(library(operation, "cpu").path)
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path / "other")))
    paths.append(library(operation, "cpu").path)
    text = (tmp_path / "other").read_text()
    (tmp_path / "other").write_text(text.replace("compiler 1.0", "compiler 1.1"))
    paths.append(library(operation, "cpu").path)
    assert len(set(paths)) == 4


def test_a_damaged_library_is_built_again(operation, monkeypatch):
    path = library(operation, "cpu").path
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.0.0")
        of_another_torch = library(operation, "cpu").path.read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    some_library = Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"
    damages = [whole[:count] for count in (0, 31, 3000, 9000, len(whole) - 1)]
    for content in [*damages, bytes(altered), of_another_torch, some_library.read_bytes()]:
        path.write_bytes(content)
        assert library(operation, "cpu").built_in is not None
        assert path.read_bytes()[:4] == b"\x7fELF"
        assert library(operation, "cpu").built_in is None
    assert_right(library(operation, "cpu"))


def test_a_missing_program_is_named(operation, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(KernelError, match=r"g\+\+ is not in PATH; install it .* or set CXX"):
            library(operation, "cpu")
    monkeypatch.setenv("CXX", "clang-99")
    with pytest.raises(KernelError, match="CXX=clang-99: there is no such program"):
        library(operation, "cpu")


def test_a_missing_ninja_is_named(operation, monkeypatch, tmp_path):
    for program in ("g++", "as", "ld"):
        (tmp_path / program).symlink_to(shutil.which(program))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(building.compilers.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(KernelError, match="pip install ninja"):
        library(operation, "cpu")


def test_a_missing_source_or_gpu_is_named(operation, monkeypatch, tmp_path):
    with pytest.raises(KernelError, match=r"scale has no cuda version: there is no .*scale\.cu"):
        library(operation, "cuda")
    with pytest.raises(KernelError, match=r"no_such has no cpu version"):
        load("no_such", "cpu")
    (operation / "scale.cu").write_text("")
    monkeypatch.setenv("NVCC", "nvcc-99")
    with pytest.raises(KernelError, match="NVCC=nvcc-99: there is no such program"):
        library(operation, "cuda")
    monkeypatch.setenv("NVCC", str(write_compiler(tmp_path / "nvcc")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernelError, match="torch finds no NVIDIA GPU"):
        library(operation, "cuda")


def test_what_a_compiler_says_is_told(operation, monkeypatch, tmp_path):
    (operation / "factor.h").write_text("#define FACTOR undefined_name\n")
    with pytest.raises(KernelError) as caught:
        library(operation, "cpu")
    assert "scale.cpp does not compile" in str(caught.value)
    assert "error: ‘undefined_name’ was not declared" in str(caught.value).replace("'", "‘")
    assert "-fopenmp" in str(caught.value)  # the command, to repeat it
    broken = write_compiler(tmp_path / "cxx", "echo 'internal compiler error: bad luck'; exit 4")
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(
        KernelError, match="compile: internal compiler error: bad luck; the command"
    ):
        library(operation, "cpu")
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_warning_is_an_error_only_where_that_is_asked_for(operation, monkeypatch):
    monkeypatch.delenv("DDIFF_WERROR", raising=False)
    source = operation / "scale.cpp"
    source.write_text(source.read_text().replace("{\n#pragma", "{ int unused;\n#pragma"))
    assert_right(library(operation, "cpu"))
    monkeypatch.setenv("DDIFF_WERROR", "1")
    with pytest.raises(KernelError, match=r"does not compile: .*error: unused variable"):
        library(operation, "cpu")


def test_the_openmp_of_clang_beside_that_of_gcc_is_named(operation):
    source = operation / "scale.cpp"
    calls = 'extern "C" void __kmpc_fork_call(); extern "C" void run() { __kmpc_fork_call(); }'
    source.write_text(f"{source.read_text()}{calls}\n")  # as clang -fopenmp does
    with pytest.raises(
        KernelError, match=r"^clang's OpenMP is LLVM's, .* use g\+\+ \(CXX=g\+\+\)$"
    ):
        opened(library(operation, "cpu"))


def test_a_compiler_that_hangs_is_stopped_with_its_children(operation, monkeypatch, tmp_path):
    pids = tmp_path / "pids"
    hanging = write_compiler(tmp_path / "cxx", f"sleep 60 & echo $! $$ > {pids}", "wait")
    monkeypatch.setenv("CXX", str(hanging))
    monkeypatch.setenv("DDIFF_BUILD_TIMEOUT", "1")
    started = time.monotonic()
    with pytest.raises(KernelError, match=r"did not end within 1 s .*DDIFF_BUILD_TIMEOUT"):
        library(operation, "cpu")
    assert time.monotonic() - started < 20
    time.sleep(0.2)
    assert [pid for pid in map(int, pids.read_text().split()) if is_alive(pid)] == []


def test_a_lock_that_is_held_too_long_is_named(operation, monkeypatch):
    path = library(operation, "cpu").path
    path.unlink()
    lock = path.with_suffix(".lock")
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX);"
    hold += "f.write('4242   '); f.flush(); print('held', flush=True); time.sleep(60)"
    holder = start(hold, lock)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setenv("DDIFF_BUILD_TIMEOUT", "0.3")
        with pytest.raises(KernelError, match=f"process 4242 .*has held {lock} for 0.3 s"):
            library(operation, "cpu")
    finally:
        holder.kill()
        holder.communicate()
    monkeypatch.setenv("DDIFF_BUILD_TIMEOUT", "60")
    assert_right(library(operation, "cpu"))  # the lock of a dead process is no lock


def test_a_builder_that_was_killed_leaves_the_way_free(operation, monkeypatch, tmp_path):
    hang, pid = tmp_path / "hang", tmp_path / "pid"
    hang.touch()
    compiler = write_compiler(
        tmp_path / "cxx", f"if [ -e {hang} ]; then echo $$ > {pid}; exec sleep 60; fi"
    )
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the killed one leaves its folder
    builder = start(USE, operation)
    sleeping = int(wait_for(pid))  # it compiles, and holds the lock
    lock = next((tmp_path / "cache").rglob("*.lock"))
    assert lock.read_text() == str(builder.pid)
    builder.send_signal(signal.SIGKILL)
    hang.unlink()
    started = time.monotonic()
    try:
        assert_right(library(operation, "cpu"))
    finally:
        os.kill(sleeping, signal.SIGKILL)
        builder.communicate()
    assert time.monotonic() - started < 30
    assert lock.read_text() == str(os.getpid())


def test_two_processes_build_once(operation, monkeypatch, tmp_path):
    log = tmp_path / "log"
    compiler = write_compiler(tmp_path / "cxx", f'echo "$@" >> {log}; sleep 0.5')
    monkeypatch.setenv("CXX", str(compiler))
    processes = [start(USE, operation) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(outputs) == [["False", "6.5"], ["True", "6.5"]]
    assert [("-c" in line.split()) for line in log.read_text().splitlines()] == [True, False]


def test_a_cache_that_cannot_be_written_is_named(operation, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path / "file"))
    with pytest.raises(KernelError, match=r"cannot write .*file/kernels/.*; set DDIFF_CACHE"):
        library(operation, "cpu")


def test_kernels_share_the_threads_of_torch(operation):
    code = USE + (
        "torch.set_num_threads(3)\n"
        "torch.rand(1000, 1000).exp()\n"
        "print(opened(found).threads())\n"
        "maps = Path('/proc/self/maps').read_text()\n"
        "print(len(set(re.findall(r'/\\S*lib(?:gomp|iomp5|omp)\\b\\S*', maps))))\n"
    )
    output, _ = start("import re\n" + code, operation).communicate(timeout=60)
    assert output.splitlines() == ["True 6.5", "3", "1"]


def test_a_library_is_loaded_once():
    assert load("stream_copy", "cpu") is load("stream_copy", "cpu")

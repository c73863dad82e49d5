"""nvcc, without a GPU, compiles every .cu for old and new GPUs: no warnings, no spills."""

import ctypes
import json
import re
import shutil
import sys

import pytest
import torch

from ddiff.kernels import building, cuda_report
from ddiff.kernels.__main__ import main
from ddiff.kernels.cuda_report import Usage, compiled, known_gpus, parse
from ddiff.system.errors import KernelError

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
FILES = [pytest.param(path, id=path.stem) for path in sorted(building.ROOT.glob("*/*.cu"))]

SAID = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3addIfEvPT_l' for 'sm_90'
ptxas info    : Function properties for _Z3addIfEvPT_l
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 128 bytes smem
ptxas info    : Compile time = 8.8 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'plain' for 'sm_75'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 9 registers, used 0 barriers, 368 bytes cmem[0]
ptxas info    : Compile time = 5.5 ms
"""
KERNEL = """\
__global__ void twice(float* x, long n) {
  long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
  if (i < n) x[i] *= 2;
}
extern "C" int ddiff_twice(float* x, long n, void* stream) {
  twice<<<unsigned((n + 255) / 256), 256, 0, static_cast<cudaStream_t>(stream)>>>(x, n);
  return cudaGetLastError();
}
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    path = tmp_path / "twice" / "twice.cu"
    path.parent.mkdir()
    path.write_text(KERNEL)
    return path


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("path", FILES)
def test_every_kernel_compiles_and_none_spills(path):
    chosen = {known_gpus()[0], known_gpus()[-1]}  # --cuda-report takes all
    uses = compiled(path, sorted(chosen))
    assert {use.gpu for use in uses} == chosen
    assert [use for use in uses if use.spills] == []


def test_the_words_of_ptxas_are_read():
    add = Usage("op.cu", "add<float>", "sm_90", registers=40, spills=20, stack=16, shared=128)
    plain = Usage("op.cu", "plain", "sm_75", registers=9, spills=0, stack=0, shared=0)
    assert list(parse(SAID, "op.cu")) == [add, plain]


def test_words_that_cannot_be_read_are_an_error():
    with pytest.raises(KernelError, match=r"op\.cu: cannot read"):
        list(parse(SAID.replace("spill loads", "spilled loads", 1), "op.cu"))


@needs_nvcc
def test_nvcc_knows_the_gpus():
    gpus = known_gpus()
    assert gpus[:4] == ["sm_75", "sm_80", "sm_89", "sm_90"]
    assert all(int(gpu[3:]) >= 100 for gpu in gpus[4:])


@needs_nvcc
def test_a_kernel_for_two_gpus(source):
    uses = compiled(source, ["sm_75", "sm_90"])
    assert [(use.kernel, use.gpu, use.spills, use.shared) for use in uses] == [
        ("twice", "sm_75", 0, 0),
        ("twice", "sm_90", 0, 0),
    ]
    assert all(4 <= use.registers <= 32 for use in uses)


@needs_nvcc
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("long n) {\n  long i", "long n) {\n  int unused;\n  long i", "unused"),  # device
        ("stream) {\n  twice", "stream) {\n  int unused;\n  twice", "unused"),  # host
        ("x[i] *= 2", "y[i] *= 2", '"y" is undefined'),
    ],
)
def test_a_warning_is_an_error(source, old, new, said):
    source.write_text(KERNEL.replace(old, new))
    with pytest.raises(KernelError, match=rf"twice\.cu does not compile: .*{said}"):
        compiled(source, ["sm_90"])


@needs_nvcc
def test_a_library_for_the_gpus_at_hand_is_built_and_loads(source, monkeypatch, tmp_path):
    gpus = [(9, 0), (7, 5), (9, 0)]
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: gpus[number])
    found = building.library(source.parent, "cuda")
    assert building.library(source.parent, "cuda") == building.Library(found.path, None)
    gpus.pop(1)
    assert building.library(source.parent, "cuda").path != found.path
    images = set(re.findall(rb"sm_(?:75|80|90)", found.path.read_bytes()))
    assert images == {b"sm_75", b"sm_90"}
    nothing = ctypes.c_void_p(0)  # no elements: an error with a GPU or without
    assert building.opened(found).ddiff_twice(nothing, ctypes.c_long(0), nothing) != 0


@needs_nvcc
def test_the_report(source, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(building, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_report, "known_gpus", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(sys, "argv", ["kernels", "--cuda-report", str(tmp_path / "report.json")])
    main()
    assert "twice.cu" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["gpus"] == ["sm_80", "sm_90"]
    assert [kernel["gpu"] for kernel in report["kernels"]] == ["sm_80", "sm_90"]
    assert report["nvcc"].startswith("V")

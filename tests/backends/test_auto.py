"""The default backend: what it decides, and that a machine without a compiler is told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from ddiff.backends import Eager, Native
from ddiff.backends.auto import _native_builds
from ddiff.build import build_backend, build_precision
from ddiff.system.console import say_once
from ddiff.system.precision import Precision
from tests.support.runs import TINY, forked

DIGITS = ("experiment=digits_ddpm", *TINY, "budget.max_steps=2")


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    _native_builds.cache_clear()
    say_once.cache_clear()
    yield
    _native_builds.cache_clear()
    say_once.cache_clear()


def test_native_on_a_cpu_a_replayed_eager_on_a_gpu(capsys: pytest.CaptureFixture) -> None:
    cfg = DictConfig({"backend": {"_target_": "ddiff.backends.Auto"}})
    assert build_backend(cfg.backend, torch.device("cpu")) == Native(graph=False)
    for _ in range(2):
        assert build_backend(cfg.backend, torch.device("cuda")) == Eager(graph="try")
    assert capsys.readouterr().out.count("backend.graph=false") == 1  # how to change it, once
    cfg.backend.graph = False  # as runs of earlier versions have it
    assert build_backend(cfg.backend, torch.device("cuda")) == Eager()


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), "bfloat16"), ((7, 5), "float16")])
def test_precision_by_capability(capability, dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert Precision().on(torch.device("cuda")) == Precision(dtype, tf32=capability >= (8, 0))


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), "bfloat16"), ((7, 5), "float16")])
def test_a_gpu_s_precision_is_said_once_and_how_to_change_it(
    capability, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(Precision, "prepare", lambda self: None)  # torch's own switches stay
    node = DictConfig({"_target_": "ddiff.system.precision.Precision"})
    for device in ("cuda", "cuda", "cpu"):
        build_precision(node, torch.device(device))
    build_precision(DictConfig({**node, "dtype": "float32"}), torch.device("cuda"))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"precision=auto: the net computes in {dtype} on this GPU")
    assert ("TensorFloat-32" in line) == (dtype == "bfloat16")
    assert line.endswith("; precision=fp32 computes in 32 bits")


def test_a_named_backend_is_taken() -> None:
    cfg = DictConfig({"backend": {"_target_": "ddiff.backends.Eager"}})
    assert build_backend(cfg.backend, torch.device("cpu")) == Eager()


@pytest.mark.parametrize(
    ("env", "backend"), [({}, "native"), ({"CXX": "no-such-compiler"}, "eager")], ids=str
)
def test_a_run_says_which_and_goes_on_under_the_other(
    env: dict[str, str], backend: str, tmp_path: Path
) -> None:
    done = forked("train", *DIGITS, "run_dir=run", cwd=tmp_path, **env)
    assert done.status == 0, done.err
    assert f" on cpu ({backend})," in done.out
    assert done.out.count("CXX=no-such-compiler: there is no such program") == (backend == "eager")
    assert json.loads((tmp_path / "run/environment.json").read_text())["backend"] == backend
    other = {} if env else {"CXX": "no-such-compiler"}
    more = forked("train", "ckpt_path=run", "budget.max_steps=4", cwd=tmp_path, **other)
    assert more.status == 0, more.err
    assert f" on cpu ({backend})," not in more.out

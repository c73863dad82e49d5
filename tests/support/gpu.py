"""The GPU of tests/gpu. In a dry run, DDIFF_GPU_DRY=1, a CPU with stand-ins takes its place: the
emulation for the kernels, recorded operations for graphs, ONNX Runtime for engines."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from ddiff.artifacts.onnx import opened
from ddiff.artifacts.seal import ENGINE, payload_of
from ddiff.artifacts.tensorrt import TensorRT
from ddiff.kernels import calling
from tests.emulation import Emulated
from tests.support import sampling
from tests.support.graphs import Cuda

IS_HERE = torch.cuda.is_available()
DRY = not IS_HERE and os.environ.get("DDIFF_GPU_DRY") == "1"
NAME = "cpu" if DRY else "gpu"  # of accelerator= and trainer=
DEVICE = torch.device("cpu" if DRY else "cuda")
needs_gpu = pytest.mark.skipif(not (IS_HERE or DRY), reason="needs a CUDA GPU")


def not_dry(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(DRY, reason=f"not in a dry run: {why}")


def emulate(monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """Kernels run by the emulation, and graphs as recorded operations; few steps of sampling."""
    gpu = Emulated()
    Cuda(monkeypatch)
    monkeypatch.setattr(calling, "gpu_of", lambda like: gpu)
    monkeypatch.setattr(sampling, "STEPS", 3)
    for name in ("eager", "native"):
        module = import_module(f"ddiff.backends.{name}")
        monkeypatch.setattr(module, "graphs", lambda wanted, device: wanted is not False)
    return gpu


def run_engines_by_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """An "engine" is the ONNX file that it would be built from, for the CPU."""

    def build(trt: Any, model: bytes, *options: Any) -> tuple[bytes, dict[str, Any]]:
        return ENGINE + model, {"tensorrt": "a stand-in", "capability": [8, 0]}

    def run(self: TensorRT, path: Path, device: torch.device) -> Any:
        plan = path.with_suffix(".onnx")
        plan.write_bytes(payload_of(path).removeprefix(ENGINE))
        return opened(plan, device, fused=False)

    monkeypatch.setattr("ddiff.artifacts.tensorrt.build_engine", build)
    monkeypatch.setattr(TensorRT, "open", run)
    monkeypatch.setattr(TensorRT, "runs_on", "cpu")

"""format=tensorrt: engines in files, 8-bit ones among them. Run by `make gpu`."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ddiff.artifacts.formats import FP8_SINCE
from ddiff.artifacts.trained import Trained
from ddiff.backends.tensorrt import installed
from tests.artifacts.worlds import export_of, make_run, psnr, samples

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.skipif(not installed(), reason="needs Torch-TensorRT"),
]


@pytest.mark.parametrize(
    ("precision", "least"), [("fp32", 70), ("fp16", 40), ("int8", 20), ("fp8", 20)]
)
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_samples_of_a_file_are_the_run_s(
    kind: str, precision: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision in ("int8", "fp8") and not importlib.util.find_spec("modelopt"):
        pytest.skip("needs nvidia-modelopt")
    if precision == "int8" and any("rtx" in name for name in installed()):
        pytest.skip("TensorRT-RTX has no int8 activations")
    if precision == "fp8" and torch.cuda.get_device_capability() < FP8_SINCE:
        pytest.skip("this GPU has no fp8")
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path / "cache"))
    run = make_run(tmp_path / "run", kind)
    path = export_of(run, "TensorRT", precision, accelerator="gpu").path
    found, wanted = (Trained.load(str(source), "ema", "gpu") for source in (path, run))
    assert psnr(samples(found, "dpmpp_2m"), samples(wanted, "dpmpp_2m")) > least

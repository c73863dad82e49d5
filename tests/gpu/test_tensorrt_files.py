"""format=tensorrt: engines in files are loaded, run and replayed on a GPU. Run by `make gpu`."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ddiff.artifacts import engine
from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.tensorrt import FP8_CAPABILITY
from ddiff.artifacts.trained import Trained
from ddiff.artifacts.writing import example
from ddiff.backends.tensorrt import supports
from ddiff.system.errors import ConfigError
from ddiff.system.precision import Precision
from tests.artifacts.worlds import export_of, make_run, psnr, samples
from tests.support.gpu import DRY, NAME, needs_gpu, not_dry, run_engines_by_onnx

pytestmark = [
    needs_gpu,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="needs TensorRT for RTX: pip install 'ddiff[tensorrt]'",
    ),
]
WITHOUT_ENGINE = "the engine itself is what is tested"
DRY_CASES = [("2D", "fp32", False), ("3D", "fp16", True)]
LEAST = {"fp32": 70, "fp16": 40, "bf16": 30, "int8": 20, "fp8": 20}  # dB, of samples


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIFF_CACHE", str(tmp_path / "cache"))
    Precision("float32").prepare()
    if DRY:
        run_engines_by_onnx(monkeypatch)
        return
    gpu = torch.cuda.get_device_capability()
    if not supports(gpu):
        pytest.skip("TensorRT for RTX does not run on compute capability {}.{}".format(*gpu))


@pytest.mark.parametrize("fixed", [False, True], ids=["dynamic", "fixed"])
@pytest.mark.parametrize("precision", LEAST)
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_samples_of_an_engine_are_the_run_s(
    kind: str, precision: str, fixed: bool, tmp_path: Path
) -> None:
    """Exported on the GPU, so that the engine itself was compared with the net."""
    if DRY and (kind, precision, fixed) not in DRY_CASES:
        pytest.skip("not in a dry run: an export takes half a minute, and tests/artifacts has it")
    if precision == "fp8" and torch.cuda.get_device_capability() < FP8_CAPABILITY:
        pytest.skip("this GPU has no fp8")
    run = make_run(tmp_path / "run", kind)
    # guidance sends each of the four samples twice
    batch = {"dynamic_batch": not fixed, "batch_size": 8 if fixed and kind == "2D" else 4}
    done = export_of(run, "TensorRT", precision, accelerator=NAME, **batch)
    assert done.facts["verified"]["of"] == "the engine"
    found, wanted = (Trained.load(str(source), "ema", NAME) for source in (done.path, run))
    assert psnr(samples(found, "dpmpp_2m"), samples(wanted, "dpmpp_2m")) > LEAST[precision]


@not_dry(WITHOUT_ENGINE)
def test_an_engine_of_a_machine_without_a_gpu_runs_here(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "3D")
    done = export_of(run, "TensorRT", "fp16", accelerator="cpu")
    assert "no GPU has run the engine" in done.facts["verified"]["of"]
    found, wanted = (Trained.load(str(source), "ema", "gpu") for source in (done.path, run))
    assert psnr(samples(found, "ddpm"), samples(wanted, "ddpm")) > LEAST["fp16"]


@not_dry(WITHOUT_ENGINE)
def test_every_call_replays_a_graph_and_returns_memory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other rows, streams and inputs; the launches are those before the captures."""
    launched: list[int] = []
    launch = engine.Bound.launch
    monkeypatch.setattr(
        engine.Bound, "launch", lambda self, s: (launched.append(s), launch(self, s))[1]
    )
    run = make_run(tmp_path / "run", "3D")
    path = export_of(run, "TensorRT", accelerator="cpu").path
    wanted, found = (Trained.load(str(p), "ema", "gpu").net for p in (run, path))
    assert isinstance(found, ArtifactNet)
    device = torch.device("cuda")
    kept = []
    side = torch.cuda.Stream()
    for rows in (1, 4, 1, 3, 4):
        for first in (0, 1):
            inputs = example(found.shape, 1000, None, device, rows, first)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side), torch.no_grad():
                kept.append((found(*inputs), wanted(*inputs)))
            torch.cuda.current_stream().wait_stream(side)
    assert min(psnr(a, b) for a, b in kept) > 70
    assert len(launched) == 3 * (engine.WARM_UP + 1)  # once for each number of rows
    with pytest.raises(ConfigError, match="takes 1 to 4 rows, and was given 5"):
        found(*example(found.shape, 1000, None, device, 5))

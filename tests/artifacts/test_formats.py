"""What an artifact answers, against the net it came from."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from ddiff.artifacts import writing
from ddiff.artifacts.formats import ExportWrapper
from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.seal import unseal
from ddiff.artifacts.trained import Trained
from ddiff.nets.blocks import Upsample
from ddiff.nets.conditions import Layout
from ddiff.system.errors import ConfigError, DdiffError
from tests.artifacts.worlds import SOLVERS, Make, psnr, samples

FIXED: dict[str, Any] = {"dynamic_batch": False, "batch_size": 8, "out": None}
QUICK = {  # kind, format, precision, options, least PSNR of the samples in dB
    "2D torchscript": ("2D", "TorchScript", "fp32", {}, 100),
    "2D pt2": ("2D", "Pt2", "fp32", {}, 100),
    "2D torchscript fixed": ("2D", "TorchScript", "fp32", FIXED, 100),
    "3D onnx": ("3D", "Onnx", "fp32", {}, 100),
    "told torchscript": ("told", "TorchScript", "fp32", {}, 100),
}
SLOW = {
    "few onnx": ("few", "Onnx", "fp32", {}, 100),
    "dit onnx": ("dit", "Onnx", "fp32", {}, 100),
    "told onnx": ("told", "Onnx", "fp32", {}, 100),
    "told pt2": ("told", "Pt2", "fp32", {}, 100),
    "told aoti": ("told", "Aoti", "fp32", {}, 100),
    "dit pt2": ("dit", "Pt2", "fp32", {}, 100),
    "few pt2": ("few", "Pt2", "fp32", {}, 100),
    "3D torchscript bf16": ("3D", "TorchScript", "bf16", {}, 30),
    "2D onnx int8": ("2D", "Onnx", "int8", {}, 20),
    "3D aoti": ("3D", "Aoti", "fp32", {}, 100),
    "2D onnx fp16 fixed": ("2D", "Onnx", "fp16", FIXED, 45),
    "3D onnx int8": ("3D", "Onnx", "int8", {}, 15),
    "few torchscript": ("few", "TorchScript", "fp32", {}, 100),
    "few aoti": ("few", "Aoti", "fp32", {}, 100),
    "dit torchscript": ("dit", "TorchScript", "fp32", {}, 100),
    "dit onnx int8": ("dit", "Onnx", "int8", {}, 15),
    "3D pt2 bf16 fixed": ("3D", "Pt2", "bf16", FIXED | {"batch_size": 4}, 30),
}


def artifact(path: Path) -> ArtifactNet:
    net = Trained.load(str(path), "ema", "cpu").net
    assert isinstance(net, ArtifactNet)
    return net


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_samples_are_the_run_s(name: str, exported: Make, runs: dict[str, Path]) -> None:
    """Twice as many rows go through the net where it is guided (2D)."""
    kind, form, precision, options, least = (QUICK | SLOW)[name]
    found = Trained.load(str(exported(kind, form, precision, **options).path), "ema", "cpu")
    run = Trained.load(str(runs[kind]), "ema", "cpu")
    for solver in (*SOLVERS, "few") if kind == "few" else SOLVERS:
        assert psnr(samples(found, solver), samples(run, solver)) > least, solver


@pytest.mark.parametrize(
    "name",
    [
        "2D torchscript",
        "2D pt2",
        "3D onnx",
        "told torchscript",
        pytest.param("dit onnx", marks=pytest.mark.slow),
        pytest.param("told onnx", marks=pytest.mark.slow),
        pytest.param("dit pt2", marks=pytest.mark.slow),
        pytest.param("3D aoti", marks=pytest.mark.slow),
    ],
)
def test_any_number_of_rows(name: str, exported: Make, runs: dict[str, Path]) -> None:
    kind, form, precision, options, _ = (QUICK | SLOW)[name]
    found = artifact(exported(kind, form, precision, **options).path)
    net = Trained.load(str(runs[kind]), "ema", "cpu").net
    assert found.batch is None
    for rows in (1, 3, 7):
        inputs = writing.example(found.layout, 1000, torch.device("cpu"), rows, first=rows)
        assert torch.allclose(found(*inputs), net(*inputs), atol=1e-4)
        assert torch.allclose(found(*inputs[:2]), net(*inputs[:2]), atol=1e-4)  # without labels


def test_the_averaged_weights_unless_asked(exported: Make, runs: dict[str, Path]) -> None:
    raw = Trained.load(str(runs["3D"]), "net", "cpu").net
    path = exported("3D", "TorchScript", weights="net", out=str(runs["3D"] / "raw.ts")).path
    found = Trained.load(str(path), "net", "cpu").net
    x, t = writing.example(Layout((1, 16, 16, 16)), 1000, torch.device("cpu"), 2)
    assert torch.allclose(found(x, t), raw(x, t), atol=1e-4)
    with pytest.raises(ConfigError, match=r"raw\.ts holds weights=net, not ema"):
        Trained.load(str(path), "ema", "cpu")


def test_a_shape_it_was_not_made_for_names_both(exported: Make) -> None:
    net = artifact(exported("2D", "TorchScript", **FIXED).path)
    assert net.batch == 8
    t = torch.zeros(8, dtype=torch.int64)
    with pytest.raises(
        ConfigError, match=r"\[8, 1, 8, 8\], and was given \[3, 1, 8, 8\]; .*batch_size=8, or 4"
    ):
        net(torch.zeros(3, 1, 8, 8), t[:3])
    with pytest.raises(ConfigError, match=r"\[8, 1, 8, 8\], and was given \[8, 1, 16, 16\]$"):
        net(torch.zeros(8, 1, 16, 16), t)
    free = artifact(exported("3D", "Onnx").path)
    with pytest.raises(ConfigError, match=r"\[any number, 1, 16, 16, 16\], .* \[8, 1, 8, 8, 8\]$"):
        free(torch.zeros(8, 1, 8, 8, 8), t)
    with pytest.raises(ConfigError, match="no classes"):
        free(torch.zeros(8, 1, 16, 16, 16), t, t)


@pytest.mark.slow
def test_the_facts(exported: Make, runs: dict[str, Path]) -> None:
    done = exported("2D", "Onnx", "int8")
    facts, sha256 = unseal(done.path)
    trained = Trained.load(str(runs["2D"]), "ema", "cpu")
    assert done.path == runs["2D"] / "artifacts" / "model_int8.onnx"
    assert sha256 == done.sha256
    assert facts["net"] == trained.digest
    assert (facts["step"], facts["spent"]) == (7, {"seconds": 1.5, "images": 28})
    assert facts["inputs"] == {"x": [None, 1, 8, 8], "t": [None], "y": [None]}
    assert (facts["precision"], facts["batch"], facts["device"]) == ("int8", None, "cpu")
    assert facts["torch"] == torch.__version__
    assert facts["config"]["net"] == trained.options.net
    assert facts["config"]["guidance"]["scale"] == 1.5
    verified = facts["verified"]
    assert verified["psnr"] > verified["least_psnr"] == 25
    assert verified["batches"] == [1, 4]
    found = Trained.load(str(done.path), "ema", "cpu")
    assert (found.digest, found.step, found.spent) == (trained.digest, 7, trained.spent)
    assert found.run_dir == done.path.with_name("model_int8_onnx")


def test_int8_is_int8(exported: Make) -> None:
    model = onnx.load(exported("2D", "Onnx", "int8").path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    dequantised = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type[:2] == "De"}
    weights = [dequantised.get(n.input[1]) for n in model.graph.node if n.op_type == "Conv"]
    quantised = [w for w in weights if w and kinds[w] == onnx.TensorProto.INT8]
    assert len(quantised) == len(weights) - 2  # but the first and the last


def test_half_precision_is_half_the_bytes(exported: Make, runs: dict[str, Path]) -> None:
    numbers = Trained.load(str(runs["3D"]), "ema", "cpu").net.parameters()
    size = exported("3D", "TorchScript", "bf16").path.stat().st_size
    assert size < 3 * sum(p.numel() for p in numbers)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_made_kernel_is_the_kernel(dims: int) -> None:
    layer, x = Upsample(dims, 3), torch.randn(2, 3, *[4] * dims)
    wanted = layer(x)
    found = ExportWrapper(nn.Sequential(layer), torch.float32).net
    assert torch.equal(found(x), wanted)
    assert torch.equal(layer(x), wanted)  # the net itself is left as it is
    assert {p.shape for p in found.parameters()} == {(3, 3, *[4] * dims), (3,)}


def test_the_check_is_the_textbook_s_psnr() -> None:
    wanted = torch.tensor([[0.0, 2.0], [4.0, 1.0]])
    off = torch.tensor([[0.004, 0.0], [0.0, 0.0]])  # rms 0.002, range 4: 20 log10(2000)
    found = writing.check(lambda x: x + off, nn.Identity(), [(wanted,)], "fp16")
    assert found["psnr"] == pytest.approx(66.0206, abs=1e-3)
    assert found["max_error"] == pytest.approx(0.004)
    exact = writing.check(lambda x: x, nn.Identity(), [(wanted,)], "fp32")
    assert (exact["psnr"], exact["max_error"]) == (200, 0)
    for wrong in (lambda x: x + off, lambda x: x * float("nan")):
        with pytest.raises(DdiffError, match="not the net"):
            writing.check(wrong, nn.Identity(), [(wanted,)], "fp32")


def test_the_check_meets_first_and_last_time_and_label() -> None:
    layout, cpu = Layout((1, 2, 2), 10), torch.device("cpu")
    met = [writing.example(layout, 1000, cpu, 1, k) for k in range(4)]
    assert {int(t) for _, t, _ in met} == {0, 999, 499, 249}
    assert {int(y) for *_, y in met} == {-1, 0, 9}


def test_an_artifact_runs_as_it_was_exported(exported: Make) -> None:
    found = Trained.load(str(exported("3D", "TorchScript", "bf16").path), "ema", "cpu")
    assert isinstance(found.net, ArtifactNet)
    backend, precision = found.options.backend.copy(), found.options.precision.copy()
    found.net.check_options(backend, precision)
    backend["_target_"] = "ddiff.backends.Compiled"
    with pytest.raises(ConfigError, match="leave backend out"):
        found.net.check_options(backend, precision)
    backend["_target_"], precision.dtype = "ddiff.backends.Eager", "float32"
    with pytest.raises(ConfigError, match=r"holds bfloat16, not float32"):
        found.net.check_options(backend, precision)

"""format=tensorrt: engines built without a GPU, inspected, and refused where they cannot run."""

import importlib
import importlib.util
import sys
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from onnx import TensorProto, helper
from torch import nn

from ddiff.artifacts import engine
from ddiff.artifacts.formats import ExportWrapper
from ddiff.artifacts.loading import ArtifactNet
from ddiff.artifacts.seal import payload_of, seal, unseal
from ddiff.artifacts.tensorrt import TensorRT, build_engine, check_gpu, widen_transposed
from ddiff.artifacts.trained import Trained
from ddiff.nets.blocks import Upsample
from ddiff.nets.conditions import Layout
from ddiff.system.errors import ConfigError, DdiffError
from tests.artifacts.worlds import Make, export_of

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT for RTX: pip install 'ddiff[tensorrt]'",
)
FIXED: dict[str, Any] = {"dynamic_batch": False, "batch_size": 4}
BUILT = {  # kind, precision, options, least PSNR of the ONNX file in dB
    "3D fp16 fixed": ("3D", "fp16", FIXED, 60),
    "2D": ("2D", "fp32", {}, 100),
    "2D int8": ("2D", "int8", {}, 35),  # 8-bit ranges by the sampling plan
    "3D fp8 fixed": ("3D", "fp8", FIXED, 28),
}
# Every pair of precision, batch, rank and labels; fp32 and fp16 of every net follow below.
RECIPE_CASES = {  # precision, whether the batch is dynamic, 2D or 3D, whether it is told anything
    "cifar10_cfg": ("fp16", False, 2, True),
    "cifar10_ddpm": ("int8", True, 2, False),
    "digits_cfg": ("fp8", True, 2, True),
    "digits_ddpm": ("fp32", True, 2, False),
    "digits_mask": ("fp32", True, 2, True),
    "digits_text": ("fp16", False, 2, True),
    "fashion_cfg": ("bf16", False, 2, True),
    "mnist_ddpm": ("fp16", True, 2, False),
    "pictures": ("fp32", False, 2, False),
    "shapes_cfg": ("int8", False, 3, True),
    "shapes_text": ("fp16", True, 3, True),
    "spheres_radius": ("bf16", True, 3, True),
    "volumes": ("fp8", False, 3, False),
    "voxel_adaptive": ("bf16", True, 3, False),
    "voxel_baseline": ("fp32", True, 3, False),
}
# the net of cifar10_cfg without labels: built whole there, with thinner maps here
THINNER = {"cifar10_ddpm": ("net.channels=[32,64,64,64]", "net.num_blocks=1", "net.groups=8")}
OTHERS = [  # what makes it every net in fp32 and in fp16, with the other kind of batch
    (recipe, precision, not case[1])
    for (recipe, case), precision in product(RECIPE_CASES.items(), ("fp32", "fp16"))
    if (precision != case[0] or recipe in THINNER)
    and recipe not in ("pictures", "voxel_adaptive")  # the nets of digits_ddpm and voxel_baseline
]
LEAST_PSNR = {"fp32": 120, "fp16": 65, "bf16": 50, "int8": 35, "fp8": 30}
# the type of the layers that multiply weights
TYPES = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}


def trt() -> Any:
    return engine.load_tensorrt("a test")


def model(operation: str, kind: int = TensorProto.FLOAT, **attributes: Any) -> bytes:
    """An ONNX model of one operation, x -> prediction."""
    ends = [helper.make_tensor_value_info(n, kind, ["batch", 4]) for n in ("x", "prediction")]
    node = helper.make_node(operation, ["x"], ["prediction"], name="only", **attributes)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@needs_tensorrt
@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
def test_an_engine_has_the_inputs_layers_and_types_of_its_net(name: str, exported: Make) -> None:
    kind, precision, options, least = BUILT[name]
    done = exported(kind, "TensorRT", precision, **options)
    facts = unseal(done.path).facts
    shape = [1, 8, 8] if kind == "2D" else [1, 16, 16, 16]
    told = ["int64", 4 if options else -1] if kind == "2D" else None
    check_facts(facts, precision, 4 if options else None, shape, told, 4)
    assert facts["engine"]["layers"] < 200  # hundreds of nodes were fused
    assert facts["verified"]["psnr"] > least
    assert facts["device"] == "cuda"
    assert payload_of(done.path)[:4] == b"vtrt"


def check_facts(
    facts: dict[str, Any],
    precision: str,
    batch: int | None,
    shape: list[int],
    told: list[Any] | None,
    size: int,
) -> None:
    """The engine's inputs, outputs, types and GPUs are those of the net and its options.

    told: type and shape of its input y, if it has one.
    """
    about, rows = facts["engine"], batch or -1
    y = {"y": told} if told else {}
    assert about["inputs"] == {"x": ["float", rows, *shape], "t": ["int64", rows], **y}
    assert about["outputs"] == {"prediction": ["float", rows, *shape]}
    assert about["lost"] == []
    assert about["products"] > 20
    assert about["layers"] < 0.6 * about["nodes"]
    # the first and the last convolution, and the transposed one, are not rounded to 8 bits
    others = {"Half": 6} if precision in ("int8", "fp8") else {}
    assert set(about["types"]) == {TYPES[precision], *others}
    assert about["types"].get("Half", 0) <= others.get("Half", 99)
    assert about["tensorrt"] == trt().__version__
    assert about["capability"] == ([8, 9] if precision == "fp8" else [8, 0])
    assert facts["batch"] == batch
    # guidance sends every sample twice
    assert facts["largest"] == (None if batch else 2 * size if told else size)
    assert "no GPU has run the engine" in facts["verified"]["of"]


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that measures the engines of every recipe."""
    monkeypatch.syspath_prepend(ROOT / "experiments/engines")
    monkeypatch.delitem(sys.modules, "measure", raising=False)
    yield importlib.import_module("measure")
    sys.modules.pop("measure", None)


@needs_tensorrt
@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPE_CASES)
def test_every_recipe_s_net_is_built(recipe: str, experiment: Any) -> None:
    check_recipe(experiment, recipe, *RECIPE_CASES[recipe][:2], *THINNER.get(recipe, ()))


@needs_tensorrt
@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "precision", "dynamic"), OTHERS)
def test_fp32_and_fp16_of_every_net(
    recipe: str, precision: str, dynamic: bool, experiment: Any
) -> None:
    check_recipe(experiment, recipe, precision, dynamic)


def check_recipe(experiment: Any, recipe: str, precision: str, dynamic: bool, *words: str) -> None:
    """The engine of a recipe's net is built, and has the inputs, layers and types of the net."""
    trained = experiment.untrained(recipe, *words)
    row = experiment.measured(trained, precision, dynamic, batch=2)
    assert "refused" not in row, row
    net, rows = trained.options.net, -1 if dynamic else 2
    layout = Layout.of_net(net)
    assert (len(net.shape) - 1, bool(layout)) == RECIPE_CASES[recipe][2:]
    y = ["float", rows, layout.width] if layout.by_rows else ["int64", rows]
    told = y if RECIPE_CASES[recipe][3] else None
    check_facts(row, precision, None if dynamic else 2, list(net.shape), told, 2)
    assert row["verified"]["psnr"] > LEAST_PSNR[precision]


def test_the_recipes_engines_are_every_pair_of_what_an_engine_can_be(experiment: Any) -> None:
    """No recipe is left out, nor any pair of precision, batch, rank and labels."""
    draw_nothing = {"autoencoder", "classifier", "voxel_autoencoder"}
    assert {*RECIPE_CASES} | draw_nothing == {*experiment.RECIPES}
    assert not any(map(experiment.untrained, draw_nothing))
    cases = [*RECIPE_CASES.values(), ("fp32", True, 2, True), ("fp16", False, 3, False)]  # BUILT
    kinds = [set(column) for column in zip(*cases, strict=True)]
    assert [len(kind) for kind in kinds] == [len(TensorRT.precisions), 2, 2, 2]
    for a, b in combinations(range(4), 2):
        found = {(case[a], case[b]) for case in cases}
        assert found == set(product(kinds[a], kinds[b]))


@pytest.mark.parametrize("layer", [Upsample(3, 4), nn.ConvTranspose2d(4, 4, 4)])
def test_transposed_convolutions_of_bfloat16_compute_in_float32(layer: nn.Module) -> None:
    dims = 3 if isinstance(layer, Upsample) else 2
    x = torch.randn(2, 4, *[4] * dims).bfloat16()
    own = ExportWrapper(nn.Sequential(layer), torch.bfloat16)
    narrow = own.net[0](x)
    widen_transposed(own)
    wide = own.net[0](x)
    assert {p.dtype for p in own.net.parameters()} == {torch.float32}
    assert wide.dtype == torch.bfloat16
    exact = own.net[0].layer(x.float())
    assert torch.equal(wide, exact.bfloat16())
    assert torch.allclose(narrow.float(), exact, atol=0.05)


def test_without_the_package(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(DdiffError, match=r"format=tensorrt needs TensorRT.*ddiff\[tensorrt\]"):
        export_of(runs["2D"], "TensorRT", out=str(tmp_path / "new/model.engine"))
    assert list(tmp_path.iterdir()) == []


def test_an_old_version_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.4.0.76"))
    with pytest.raises(DdiffError, match=r"1\.7 or later, and this is 1\.4\.0\.76: pip install -"):
        TensorRT().check("fp16", CPU)


@needs_tensorrt
def test_the_parser_s_words() -> None:
    with pytest.raises(DdiffError, match=r"parser refuses this net: Unheard only: .*not found"):
        build_engine(trt(), model("Unheard", domain="mine"), 1, 2)


@needs_tensorrt
def test_the_builder_s_words() -> None:
    """A profile whose largest batch is smaller than its usual one."""
    with pytest.raises(DdiffError, match=r"cannot build this engine: .+"):
        build_engine(trt(), model("Relu"), 4, 2)


@needs_tensorrt
def test_what_a_model_of_one_layer_becomes() -> None:
    plan, facts = build_engine(trt(), model("Relu"), 2, 4)
    assert plan[:4] == b"vtrt"
    assert (facts["inputs"], facts["products"], facts["lost"]) == ({"x": ["float", -1, 4]}, 0, [])


@pytest.fixture
def sealed(tmp_path: Path, runs: dict[str, Path]) -> Path:
    """A file with the facts of an engine, made without TensorRT and so noted nowhere."""
    config = export_of(runs["2D"], "TorchScript", out=str(tmp_path / "facts.ts")).facts["config"]
    config["format"] = {"_target_": "ddiff.artifacts.TensorRT"}
    facts = {
        "config": config, "batch": None, "device": "cuda", "weights": "ema", "net": "", "step": 1,
        "spent": {}, "precision": "fp32", "largest": 8,
        "engine": {"tensorrt": "1.7.1.116", "capability": [8, 0]},
    }  # fmt: skip
    path = tmp_path / "model.engine"
    path.write_bytes(seal(b"vtrt an engine", facts)[0])
    return path


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cpu"])
def test_sampling_without_a_gpu(
    accelerator: str, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIFF_TRUST", unseal(sealed).sha256)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = (
        r"model\.engine: an engine needs an NVIDIA GPU of compute capability 8\.0 or later, its "
    )
    why = "torch finds no GPU" if torch.version.cuda else "has no CUDA"
    with pytest.raises(DdiffError, match=f"{words}.*{why}.*format=onnx runs on a CPU"):
        Trained.load(str(sealed), "ema", accelerator)


def load(path: Path) -> Trained:
    return Trained.load(str(path), "ema", "cpu")


def test_an_engine_of_a_stranger(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = unseal(sealed).sha256
    with pytest.raises(DdiffError, match=f"engine of native code.*DDIFF_TRUST={sha256[:16]}"):
        load(sealed)
    monkeypatch.setenv("DDIFF_TRUST", sha256)
    with pytest.raises(DdiffError, match="an engine needs an NVIDIA GPU"):
        load(sealed)


def test_a_part_of_an_engine(sealed: Path) -> None:
    whole = sealed.read_bytes()
    assert payload_of(sealed) == b"vtrt an engine"
    sealed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DdiffError, match=r"refused .*model\.engine: it is cut short"):
        load(sealed)
    sealed.write_bytes(whole[:5] + b"X" + whole[6:])
    with pytest.raises(DdiffError, match=r"refused .*model\.engine: .*altered"):
        load(sealed)


def test_an_engine_that_ddiff_did_not_seal(sealed: Path) -> None:
    sealed.write_bytes(payload_of(sealed))
    with pytest.raises(DdiffError, match=r"not an artifact of ddiff\.export"):
        load(sealed)


def test_an_engine_for_another_gpu_or_version() -> None:
    facts = {"tensorrt": "1.7.1.116", "capability": [8, 0]}
    check_gpu(Path("a.engine"), facts, "1.7.1.116", (8, 0))
    with pytest.raises(DdiffError, match=r"8\.0 or later, and this one has 7\.5; format="):
        check_gpu(Path("a.engine"), facts, "1.7.1.116", (7, 5))
    for hopper in ((9, 0), (10, 0)):
        words = r"a\.engine: TensorRT for RTX does not run .*{}\.{}; format=onnx, format=aoti and"
        with pytest.raises(DdiffError, match=words.format(*hopper)):
            check_gpu(Path("a.engine"), facts, "1.7.1.116", hopper)
    for gpu in ((8, 9), (12, 0), (12, 1)):
        check_gpu(Path("a.engine"), facts, "1.7.1.116", gpu)
    words = r"1\.7\.1\.116 built it, and 1\.8\.0\.3 is .*cu13==1\.7\.1\.116, or export it again"
    with pytest.raises(DdiffError, match=words):
        check_gpu(Path("a.engine"), facts, "1.8.0.3", (12, 0))


def test_a_batch_outside_the_profile(sealed: Path) -> None:
    facts = unseal(sealed).facts
    options = SimpleNamespace(
        net=DictConfig({"shape": [1, 2, 2], "num_classes": None}),
        precision=SimpleNamespace(dtype="float32"),
    )
    net = ArtifactNet(sealed, lambda x, t: x, options, facts, CPU)  # type: ignore[arg-type]
    assert net(torch.zeros(8, 1, 2, 2), torch.zeros(8)).shape == (8, 1, 2, 2)
    words = "takes 1 to 8 rows, and was given 9; choose batch_size=8 or fewer, or 4 with guidance"
    with pytest.raises(ConfigError, match=words):
        net(torch.zeros(9, 1, 2, 2), torch.zeros(9))


def test_a_file_of_torch_tensorrt_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ddiff 0.1 open as they did, by Torch-TensorRT."""
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(DdiffError, match=r"old\.trt\.pt2 needs Torch-TensorRT.*torch-tensorrt-rtx"):
        TensorRT().open(Path("old.trt.pt2"), CPU)

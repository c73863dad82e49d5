"""Engines of TensorRT for RTX, built from the net's ONNX file; building needs no GPU."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddiff.artifacts.engine import Engine, Log, load_tensorrt
from ddiff.artifacts.formats import DTYPES, FoldedUpsample, Format, Job, Pt2, Run
from ddiff.artifacts.onnx import opened, widened, write_onnx
from ddiff.artifacts.quantised import NUMBERS, quantise
from ddiff.artifacts.seal import payload_of, unseal
from ddiff.backends.tensorrt import CAPABILITY, check_capability, load_library, supports
from ddiff.system.errors import DdiffError

OLD_ENDING = ".trt.pt2"  # of files by ddiff 0.1, through Torch-TensorRT
INSTEAD = "format=onnx, format=aoti and format=pt2 run on it"
FP8_CAPABILITY, FP8_GPUS = (8, 9), ("SM89", "SM120")
NEEDS = (
    "an engine needs an NVIDIA GPU of compute capability {}.{} or later, its driver for CUDA 13 "
    "(580 or later), and torch for CUDA".format(*CAPABILITY)
)
TRANSPOSED = (FoldedUpsample, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # operations that multiply weights
LAYER = re.compile(r"^Name: .*?, LayerType: (\w+), Inputs: \[(.*?)\], Constants: .*Metadata: (.*)$")
MULTIPLY = ("correlation", "deconv", "gemm")  # the builder's names of such layers


class TensorRT(Format):
    """An engine: layers that each NVIDIA GPU since Ampere compiles for itself when it loads them.

    The types in the ONNX file are the engine's ("strongly typed"). float32 stays float32: products
    are not rounded to TF32.
    """

    ending = ".engine"
    precisions = ("fp32", "bf16", "fp16", "int8", "fp8")
    plain = DTYPES | dict.fromkeys(NUMBERS, torch.float16)
    is_program = "it holds an engine of native code"
    runs_in_torch = False
    runs_on = "cuda"
    decodes = False

    def check(self, precision: str, device: torch.device) -> None:
        super().check(precision, device)
        load_tensorrt("format=tensorrt")

    def write(self, job: Job, path: Path) -> dict[str, Any]:
        """Write the engine, and beside it the ONNX file that it is built from."""
        trt = load_tensorrt("format=tensorrt")
        if job.precision == "bf16":
            widen_transposed(job.net)
        if job.precision in NUMBERS:
            dtype = job.net.dtype
            job.net.cast(torch.float32)  # CPUs take many times as long in float16
            quantise(job.net, job.precision, job.calibration())
            job.net.cast(dtype)
        onnx = path.with_suffix(".onnx")
        write_onnx(job, onnx)
        # guidance sends every sample twice, with its label and without
        largest = len(job.example[0]) * (2 if len(job.example) == 3 else 1)
        gpus = FP8_GPUS if job.precision == "fp8" else ()
        plan, facts = build_engine(trt, onnx.read_bytes(), len(job.example[0]), largest, gpus)
        path.write_bytes(plan)
        return {"engine": facts, "largest": None if job.batch else largest}

    def compared(self, path: Path, device: torch.device) -> tuple[Run, str]:
        """The engine on a GPU. Without one, the ONNX file beside it, by ONNX Runtime."""
        if device.type == self.runs_on:
            try:
                return self.open(path, device), "the engine"
            except DdiffError as error:
                instead = "with accelerator=cpu its ONNX file is compared instead"
                raise DdiffError(f"{error}; {instead}") from error
        onnx = path.with_suffix(".onnx")
        what = "the ONNX file that the engine was built from; no GPU has run the engine"
        if widened(onnx):
            what = f"{what}; bfloat16 weights, computed in float32"
        return opened(onnx, device, fused=False), what

    def open(self, path: Path, device: torch.device) -> Run:
        if path.name.endswith(OLD_ENDING):
            load_library(str(path))
            if device.type == "cuda":
                check_capability(str(path), torch.cuda.get_device_capability(device))
            return Pt2().open(path, device)
        trt, facts = load_tensorrt(str(path)), unseal(path).facts.get("engine") or {}
        if not {"tensorrt", "capability"} <= set(facts):
            raise DdiffError(f"refused {path}: its facts lack engine")
        check_gpu(path, facts, trt.__version__, torch.cuda.get_device_capability(device))
        return Engine(trt, payload_of(path), str(path), device)

    def check_place(self, path: Path, made_on: str, device: torch.device) -> None:
        if device.type == made_on:
            return
        why = "torch finds no GPU or no driver here"
        if torch.cuda.is_available():
            why = "accelerator=cpu was chosen"
        elif torch.version.cuda is None:
            why = f"torch {torch.__version__} has no CUDA"
        raise DdiffError(f"cannot run {path}: {NEEDS}; {why}. format=onnx runs on a CPU")


class InFloat(nn.Module):
    """A layer that computes in float32 and returns the type of its input."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float()).to(x.dtype)


def widen_transposed(net: nn.Module) -> None:
    """Make transposed convolutions compute in float32: the builder has none of bfloat16."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TRANSPOSED):
                setattr(parent, name, InFloat(child))


def check_gpu(path: Path, facts: dict[str, Any], version: str, gpu: tuple[int, int]) -> None:
    """Raise if an engine is for another version of TensorRT, or for other GPUs than this one."""
    built_by, least = facts["tensorrt"], tuple(facts["capability"])
    if built_by != version:
        raise DdiffError(
            f"cannot run {path}: TensorRT for RTX {built_by} built it, and {version} is installed; "
            f"pip install tensorrt-rtx-cu13=={built_by}, or export it again"
        )
    if gpu < least:
        raise DdiffError(
            "cannot run {}: it is for GPUs of compute capability {}.{} or later, and this one has "
            "{}.{}; {}".format(path, *least, *gpu, INSTEAD)
        )
    if not supports(gpu):
        raise DdiffError(
            "cannot run {}: TensorRT for RTX does not run on GPUs of compute capability {}.{}; "
            "{}".format(path, *gpu, INSTEAD)
        )


def build_engine(
    trt: Any, model: bytes, usual: int, largest: int, gpus: Sequence[str] = ()
) -> tuple[bytes, dict[str, Any]]:
    """The engine of an ONNX model, and facts about it.

    A model of any batch size becomes an engine of 1 to `largest` rows, fastest at `usual`. `gpus`
    are the only ones that it is built for, by their names in trt.ComputeCapability.
    """
    started, log = time.perf_counter(), Log(trt)
    builder = trt.Builder(log.receiver)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.receiver)
    if not parser.parse(model):
        raise DdiffError(f"TensorRT's ONNX parser refuses this net: {_refusals(parser)}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # for its capture in a CUDA graph
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the names and types of layers
    config.num_compute_capabilities = len(gpus)
    for number, name in enumerate(gpus):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), number)
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    profile = builder.create_optimization_profile()
    for value in inputs:
        rows, *shape = value.shape
        if rows == -1:
            profile.set_shape(value.name, *((n, *shape) for n in (1, usual, largest)))
    if any(value.shape[0] == -1 for value in inputs):
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise DdiffError(f"TensorRT cannot build this engine: {log.why()}")
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    facts = {
        "tensorrt": trt.__version__,
        "capability": list(FP8_CAPABILITY if gpus == FP8_GPUS else CAPABILITY),
        "seconds": round(time.perf_counter() - started, 2),
        "inputs": {value.name: _signature(value) for value in inputs},
        "outputs": {value.name: _signature(value) for value in outputs},
        **inspected(log.layers, model),
    }
    return bytes(plan), facts


def inspected(layers: str, model: bytes) -> dict[str, Any]:
    """Facts about the engine's layers, compared with the nodes of its ONNX model.

    - `layers`: their number; one is a fusion of several of the model's `nodes`.
    - `types`: the number of layers that multiply weights, by the type of their first input.
    - `lost`: nodes of the model that multiply weights, and that no layer names: there should be
      none.
    """
    from onnx import load_from_string

    rows = [match for line in layers.splitlines() if (match := LAYER.match(line))]
    named = {name for row in rows for name in re.findall(r"\[ONNX Layer: (.*?)\]", row[3])}
    nodes = load_from_string(model).graph.node
    products = [node.name for node in nodes if node.op_type in PRODUCTS]
    types = Counter(
        kind
        for row in rows
        if row[1] in MULTIPLY
        for kind in re.findall(r"Datatype: (\w+)", row[2])[:1]
    )
    return {
        "nodes": len(nodes),
        "layers": len(rows),
        "kinds": dict(Counter(row[1] for row in rows)),
        "types": dict(types),
        "products": len(products),
        "lost": [name for name in products if name not in named],
    }


def _signature(value: Any) -> list[Any]:
    """Type and shape of an input or output, -1 for any number of rows."""
    return [value.dtype.name.lower(), *value.shape]


def _refusals(parser: Any) -> str:
    """The parser's words about the first node that it refuses."""
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        about = f"{error.node_operator()} {error.node_name()}: " if error.node_operator() else ""
        return about + " ".join(error.desc().split())
    return "it does not say why"

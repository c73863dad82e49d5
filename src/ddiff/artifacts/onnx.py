"""ONNX, checked and run by ONNX Runtime; int8 by its static quantisation."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddiff.artifacts.formats import NAMES, OUTPUT, Format, Inputs, Job, Run, quiet
from ddiff.artifacts.quantised import translations
from ddiff.system.errors import DdiffError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
QUANTISED = ["Conv", "Gemm", "MatMul"]  # ONNX Runtime has no int8 transposed convolution


class Onnx(Format):
    ending = ".onnx"
    precisions = ("fp32", "fp16", "int8")
    why_not = "ONNX Runtime's convolutions do not take it"
    runs_in_torch = False
    is_program = None

    def write(self, job: Job, path: Path) -> dict[str, Any]:
        write_onnx(job, path)
        if job.precision == "int8":
            _quantise(path, job.calibration())
        return {}

    def open(self, path: Path, device: torch.device) -> Run:
        return opened(path, device)

    def check_place(self, path: Path, made_on: str, device: torch.device) -> None:
        """No check: `open` asks ONNX Runtime for the device."""


def opened(path: Path, device: torch.device, fused: bool = True) -> Run:
    """The function in an ONNX file; without `fused`, 8-bit layers round their inputs and compute in
    the type of the file, as the nodes say."""
    runtime = _library("onnxruntime")
    provider = PROVIDERS.get(device.type)
    if provider not in runtime.get_available_providers():
        raise DdiffError(f"this ONNX Runtime does not run on {device.type}; accelerator=cpu")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.disable_quant_qdq", "0" if fused else "1")
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=[provider])

    def run(*inputs: Tensor) -> Tensor:
        (prediction,) = session.run(None, _feed(inputs))
        return torch.from_numpy(prediction).to(device)

    return run


def write_onnx(job: Job, path: Path) -> None:
    """The net of a job as an ONNX file."""
    for name in ("onnxscript", "onnxruntime"):
        _library(name)
    # the exporter remarks that torchvision is not here, which no net needs
    with quiet(), _only_errors("torch.onnx._internal.exporter._registration"):
        made = torch.onnx.export(
            job.program(), dynamo=True, external_data=False, verbose=False,
            input_names=NAMES[: len(job.example)], output_names=[OUTPUT],
            custom_translation_table=translations(),
        )  # fmt: skip
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of the exporter's source
    made.save(path)


def _quantise(path: Path, calibration: Iterator[Inputs]) -> None:
    """Weights int8 a channel, activations uint8 of the ranges met; the first and the last product
    of maps or tokens stay float32: without, the worst of the errors is there."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    nodes = _library("onnx").load(path).graph.node
    wide = [node.name for node in nodes if node.op_type in ("Conv", "MatMul")]  # Gemm: of vectors
    feeds = (_feed(inputs) for inputs in calibration)

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(feeds, None)

    ends = [wide[0], wide[-1]] if len(wide) > 2 else []
    # the quantiser recommends to fold constants first, which the exporter has done
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _only_errors("root"):
        quantised = Path(folder) / path.name
        quantize_static(
            path, quantised, Reader(), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED, nodes_to_exclude=ends, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        quantised.replace(path)


def widened(path: Path) -> bool:
    """Rewrite a model of bfloat16 as one that computes in float32; return False if it has none.

    The numbers stay those of the model: ONNX Runtime's convolutions do not take bfloat16.
    """
    from onnx import TensorProto, numpy_helper

    onnx = _library("onnx")
    narrow, wide = TensorProto.BFLOAT16, TensorProto.FLOAT
    model = onnx.load(path)
    graph, found = model.graph, False
    for value in graph.initializer:
        if value.data_type == narrow:
            numbers = numpy_helper.to_array(value).astype("float32")
            value.CopyFrom(numpy_helper.from_array(numbers, value.name))
            found = True
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == narrow:
                attribute.i = wide
            elif attribute.t.data_type == narrow:
                numbers = numpy_helper.to_array(attribute.t).astype("float32")
                attribute.t.CopyFrom(numpy_helper.from_array(numbers))
    del graph.value_info[:]  # types of what is between, which are found again
    if found:
        onnx.save(model, path)
    return found


def _feed(inputs: Inputs) -> dict[str, Any]:
    return {name: value.cpu().numpy() for name, value in zip(NAMES, inputs, strict=False)}


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise DdiffError(
            f"format=onnx needs {name}, which is not installed: pip install 'ddiff[onnx]' ({error})"
        ) from error


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Context in which this logger reports errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

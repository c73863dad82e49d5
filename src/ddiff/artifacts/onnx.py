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

from ddiff.artifacts.formats import NAMES, Format, Inputs, Job, Run, quiet
from ddiff.system.errors import DdiffError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
QUANTISED = ["Conv", "Gemm", "MatMul"]  # ONNX Runtime has no int8 transposed convolution


class Onnx(Format):
    ending = ".onnx"
    precisions = ("fp32", "fp16", "int8")
    why_not = "ONNX Runtime's convolutions do not take it"
    runs_in_torch = False
    is_program = None

    def write(self, job: Job, path: Path) -> None:
        for name in ("onnxscript", "onnxruntime"):
            _library(name)
        # the exporter remarks that torchvision is not here, which no net needs
        with quiet(), _only_errors("torch.onnx._internal.exporter._registration"):
            made = torch.onnx.export(
                job.program(), dynamo=True, external_data=False, verbose=False,
                input_names=NAMES[: len(job.example)], output_names=["prediction"],
            )  # fmt: skip
        assert made is not None
        for node in made.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of the exporter's source
        made.save(path)
        if job.precision == "int8":
            _quantise(path, job.calibration())

    def open(self, path: Path, device: torch.device) -> Run:
        runtime = _library("onnxruntime")
        provider = PROVIDERS.get(device.type)
        if provider not in runtime.get_available_providers():
            raise DdiffError(f"this ONNX Runtime does not run on {device.type}; accelerator=cpu")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options, providers=[provider])

        def run(*inputs: Tensor) -> Tensor:
            (prediction,) = session.run(None, _feed(inputs))
            return torch.from_numpy(prediction).to(device)

        return run


def _quantise(path: Path, calibration: Iterator[Inputs]) -> None:
    """Weights int8 a channel, activations uint8 of the ranges met; the first and last convolution
    stay float32: without, the worst of the errors is there."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    convolutions = [n.name for n in _library("onnx").load(path).graph.node if n.op_type == "Conv"]
    feeds = (_feed(inputs) for inputs in calibration)

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(feeds, None)

    ends = [convolutions[0], convolutions[-1]] if len(convolutions) > 2 else []
    # the quantiser recommends to fold constants first, which the exporter has done
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _only_errors("root"):
        quantised = Path(folder) / path.name
        quantize_static(
            path, quantised, Reader(), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED, nodes_to_exclude=ends, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        quantised.replace(path)


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

"""Kinds of files: how a net is written into one, and how one is opened. Each is one class and one
YAML in conf/format."""

import copy
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ddiff.artifacts.quantised import NUMBERS, load_modelopt, quantise
from ddiff.backends.tensorrt import installed, load_library
from ddiff.nets.blocks import Upsample
from ddiff.system.errors import ConfigError, DdiffError

Inputs = tuple[Tensor, ...]
Run = Callable[..., Tensor]
NAMES = ("x", "t", "y")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
          "int8": torch.float32, "fp8": torch.float32}  # fmt: skip
FP8_SINCE = (8, 9)


class ExportWrapper(nn.Module):
    """The net as a file holds it: float32 in and out, its parameters in the file's precision.

    (x [B, C, *S] float32, t - 1 [B] int64, and with classes y [B] int64, -1 for "no label")
        -> prediction [B, C, *S] float32
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        own: Any = copy.deepcopy(net).requires_grad_(False)
        for parent in list(own.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Upsample):
                    setattr(parent, name, FoldedUpsample(child))
        # formats keep dense weights best; x decides that the convolutions run channels last
        self.net = own.to(dtype, memory_format=torch.contiguous_format)
        self.eval()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        form = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        return self.net(x.to(self.dtype, memory_format=form), t, y).float().contiguous()


class FoldedUpsample(nn.Module):
    """An `Upsample` whose kernel is a parameter, not the result of a computation."""

    def __init__(self, layer: Upsample):
        super().__init__()
        self.transposed = layer.transposed
        self.bias = layer.conv.bias
        self.weight = nn.Parameter(layer.kernel(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x, self.weight, self.bias, stride=2, padding=1)


@dataclass(frozen=True)
class Job:
    """Input of a format: the net, an example of its input, the precision and the batch size.

    `batch` None is any size (where a largest must be named, that of the example). `calibration`
    makes inputs that the net meets when it samples.
    """

    net: ExportWrapper
    example: Inputs
    precision: str
    batch: int | None
    calibration: Callable[[], Iterator[Inputs]]

    def program(self, largest: int | None = None) -> torch.export.ExportedProgram:
        """The graph of ATen operations that several formats are made from."""
        shapes = None
        if self.batch is None:
            batch = torch.export.Dim("batch", min=1, max=largest)
            shapes = tuple({0: batch} for _ in self.example)
        with torch.no_grad():
            return torch.export.export(self.net, self.example, dynamic_shapes=shapes)


class Format(ABC):
    ending: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")
    plain: ClassVar[Mapping[str, torch.dtype]] = DTYPES  # of what is not quantised
    why_not: ClassVar[str] = "format=onnx has int8, format=tensorrt int8 and fp8"
    runs_in_torch: ClassVar[bool] = True
    is_program: ClassVar[str | None]  # what in the file would be executed; None: nothing

    def check(self, precision: str, device: torch.device) -> None:
        name = type(self).__name__.lower()
        if precision == "fp16" and device.type == "cpu" and self.runs_in_torch:
            raise ConfigError(
                "precision: torch's fp16 convolutions on CPUs take many times as long as fp32; "
                "choose fp32 or bf16, or format=onnx"
            )
        if precision not in self.precisions:
            raise ConfigError(
                f"precision: format={name} has no {precision} ({self.why_not}); "
                f"choose from {', '.join(self.precisions)}"
            )

    @abstractmethod
    def write(self, job: Job, path: Path) -> None:
        """Writes the file. Torch's own archives are made in memory first: its writer of files
        ends the process where the disk is full."""

    @abstractmethod
    def open(self, path: Path, device: torch.device) -> Run:
        """The function of the inputs in `path`, whose hash has been checked."""


class TorchScript(Format):
    ending = ".ts"
    is_program = "TorchScript is a program"

    def write(self, job: Job, path: Path) -> None:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(job.net, job.example, check_trace=False)
            made = torch.jit.freeze(traced).save_to_buffer()
        path.write_bytes(made)

    def open(self, path: Path, device: torch.device) -> Run:
        with quiet():
            module = torch.jit.load(str(path), map_location=device)
        return lambda *inputs: module(*inputs)


class Pt2(Format):
    ending = ".pt2"
    is_program = "torch.export.load is not made for files of strangers"

    def write(self, job: Job, path: Path) -> None:
        made = io.BytesIO()
        with quiet():
            torch.export.save(job.program(), made)
        path.write_bytes(made.getvalue())

    def open(self, path: Path, device: torch.device) -> Run:
        module = torch.export.load(path).module()
        return lambda *inputs: module(*inputs)


class Aoti(Format):
    """AOTInductor: a shared library for the processor or GPU it was compiled on.

    On CPUs its weights are frozen, so that it calls oneDNN at any number of rows: left to choose,
    torch 2.13 convolves one small volume by other means, which lay the result out differently from
    what the compiled code takes for granted.
    """

    ending = ".aoti.pt2"
    is_program = "it holds native code"

    def write(self, job: Job, path: Path) -> None:
        import torch._inductor

        made = io.BytesIO()
        with quiet(), torch.no_grad():  # weights with gradients are not frozen
            torch._inductor.aoti_compile_and_package(
                job.program(),
                package_path=made,
                inductor_configs={"freezing": job.example[0].device.type == "cpu"},
            )
        path.write_bytes(made.getvalue())

    def open(self, path: Path, device: torch.device) -> Run:
        import torch._inductor

        return torch._inductor.aoti_load_package(str(path))


class TensorRT(Format):
    """Torch-TensorRT through dynamo; the parameters' types are the engine's."""

    ending = ".trt.pt2"
    precisions = ("fp32", "bf16", "fp16", "int8", "fp8")
    plain = DTYPES | dict.fromkeys(NUMBERS, torch.float16)
    is_program = "it holds an engine of native code"
    runs_in_torch = False

    def check(self, precision: str, device: torch.device) -> None:
        super().check(precision, device)
        if device.type != "cuda":
            raise DdiffError(
                f"format=tensorrt needs an NVIDIA GPU with Torch-TensorRT; this runs on {device}"
            )
        if precision == "int8" and any("rtx" in name for name in installed()):
            raise ConfigError(
                "precision: TensorRT-RTX rounds no activations to int8; choose fp8 or fp16"
            )
        if precision == "fp8":
            capability = torch.cuda.get_device_capability(device)
            if capability < FP8_SINCE:
                raise ConfigError(
                    "precision: fp8 needs compute capability {}.{}, and this GPU has {}.{}; "
                    "choose int8 or fp16".format(*FP8_SINCE, *capability)
                )

    def write(self, job: Job, path: Path) -> None:
        number = NUMBERS.get(job.precision)
        if number:
            load_modelopt()
        library = load_library("format=tensorrt")
        if number:
            quantise(job.net, number, job.calibration())
        engine = library.dynamo.compile(
            job.program(largest=len(job.example[0])), arg_inputs=job.example,
            use_explicit_typing=True, min_block_size=1, disable_tf32=True,
        )  # fmt: skip
        library.save(engine, str(path), arg_inputs=list(job.example), retrace=False)

    def open(self, path: Path, device: torch.device) -> Run:
        load_library("format=tensorrt")
        return Pt2().open(path, device)


@contextmanager
def quiet() -> Iterator[None]:
    """Context without warnings about torch's own code, on which users cannot act."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # asked for, and here
        warnings.filterwarnings("ignore", category=TracerWarning)  # shapes are checked
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield

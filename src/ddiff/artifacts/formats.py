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

from ddiff.nets.blocks import Upsample
from ddiff.system.errors import ConfigError

Inputs = tuple[Tensor, ...]
Run = Callable[..., Tensor]
NAMES, OUTPUT = ("x", "t", "y"), "prediction"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
          "int8": torch.float32, "fp8": torch.float32}  # fmt: skip


class ExportWrapper(nn.Module):
    """The net as a file holds it: float32 in and out, its parameters in the file's precision.

    (x [B, C, *S] float32, t - 1 [B] int64, and with classes y [B] int64, -1 for "no label",
    or with other conditions rows y [B, K] float32, NaN for "not given")
        -> prediction [B, C, *S] float32
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        # formats keep dense weights best; x decides that the convolutions run channels last
        self.net = folded(net).to(dtype, memory_format=torch.contiguous_format)
        self.eval()

    def cast(self, dtype: torch.dtype) -> None:
        """Change the precision of the parameters."""
        self.dtype = dtype
        self.net.to(dtype)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        form = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        return self.net(x.to(self.dtype, memory_format=form), t, y).float().contiguous()


class DecoderWrapper(ExportWrapper):
    """A decoder as a file holds it: z [B, c, *S] float32 -> samples [B, C, *S] float32."""

    def forward(self, z: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.net.decoded(z.to(self.dtype)).float().contiguous()


def folded(net: nn.Module) -> Any:
    """Return a frozen copy of a net whose upsampling kernels are parameters."""
    own = copy.deepcopy(net).requires_grad_(False)
    for parent in list(own.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Upsample):
                setattr(parent, name, FoldedUpsample(child))
    return own


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

    `batch` None is any size. `calibration` makes inputs that the net meets when it samples.
    """

    net: ExportWrapper
    example: Inputs
    precision: str
    batch: int | None
    calibration: Callable[[], Iterator[Inputs]]

    def program(self) -> torch.export.ExportedProgram:
        """The graph of ATen operations that several formats are made from."""
        shapes = None
        if self.batch is None:
            batch = torch.export.Dim("batch", min=1)
            shapes = tuple({0: batch} for _ in self.example)
        with torch.no_grad():
            return torch.export.export(self.net, self.example, dynamic_shapes=shapes)


class Format(ABC):
    ending: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")
    plain: ClassVar[Mapping[str, torch.dtype]] = DTYPES  # of what is not quantised
    why_not: ClassVar[str] = "format=onnx has int8, format=tensorrt int8 and fp8"
    runs_in_torch: ClassVar[bool] = True
    runs_on: ClassVar[str | None] = None  # the device of its files; None: that of the export
    is_program: ClassVar[str | None]  # what in the file would be executed; None: nothing
    decodes: ClassVar[bool] = True  # whether a decoder of latents gets a file of its own

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
    def write(self, job: Job, path: Path) -> dict[str, Any]:
        """Write the file, and return facts that only its writer knows.

        Torch's own archives are made in memory first: its writer of files ends the process where
        the disk is full.
        """

    @abstractmethod
    def open(self, path: Path, device: torch.device) -> Run:
        """The function of the inputs in `path`, whose hash has been checked."""

    def compared(self, path: Path, device: torch.device) -> tuple[Run, str]:
        """The function that is compared with the net after `write`, and what it runs."""
        return self.open(path, device), "the file"

    def check_place(self, path: Path, made_on: str, device: torch.device) -> None:
        """Raise unless a file that was made for the device `made_on` runs on this one."""
        if device.type != made_on:
            raise ConfigError(
                f"accelerator: {path} was exported for {made_on}, and this is {device.type}; "
                f"export it again with accelerator={device.type}"
            )


class TorchScript(Format):
    ending = ".ts"
    is_program = "TorchScript is a program"

    def write(self, job: Job, path: Path) -> dict[str, Any]:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(job.net, job.example, check_trace=False)
            made = torch.jit.freeze(traced).save_to_buffer()
        path.write_bytes(made)
        return {}

    def open(self, path: Path, device: torch.device) -> Run:
        with quiet():
            module = torch.jit.load(str(path), map_location=device)
        return lambda *inputs: module(*inputs)


class Pt2(Format):
    ending = ".pt2"
    is_program = "torch.export.load is not made for files of strangers"

    def write(self, job: Job, path: Path) -> dict[str, Any]:
        made = io.BytesIO()
        with quiet():
            torch.export.save(job.program(), made)
        path.write_bytes(made.getvalue())
        return {}

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

    def write(self, job: Job, path: Path) -> dict[str, Any]:
        import torch._inductor

        made = io.BytesIO()
        with quiet(), torch.no_grad():  # weights with gradients are not frozen
            torch._inductor.aoti_compile_and_package(
                job.program(),
                package_path=made,
                inductor_configs={"freezing": job.example[0].device.type == "cpu"},
            )
        path.write_bytes(made.getvalue())
        return {}

    def open(self, path: Path, device: torch.device) -> Run:
        import torch._inductor

        return torch._inductor.aoti_load_package(str(path))


@contextmanager
def quiet() -> Iterator[None]:
    """Context without warnings about torch's own code, on which users cannot act."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # asked for, and here
        warnings.filterwarnings("ignore", category=TracerWarning)  # shapes are checked
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield

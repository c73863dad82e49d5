"""TensorRT through Torch-TensorRT's dynamo front end; engines are kept by what they depend on."""

import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ddiff.backends.execution import Execution, Predict, device_of, graphs
from ddiff.kernels.solver_step import reference, solver_step
from ddiff.system.bounds import At
from ddiff.system.checkpoints import digest
from ddiff.system.errors import DdiffError
from ddiff.system.files import cache_folder
from ddiff.system.precision import Precision

DISTRIBUTIONS = ("torch-tensorrt", "torch-tensorrt-rtx")  # both import as torch_tensorrt
CAPABILITY = (8, 0)  # the least of the GPUs that TensorRT for RTX builds for unless told others
LEFT_OUT = ((9, 0), (12, 0))  # from Hopper on, before 12.0: TensorRT for RTX has none of them


@dataclass(frozen=True)
class TensorRT:
    """native_step: ddiff's own operation executes the solver, else torch. optimization_level: the
    builder's, 0 to 5."""

    graph: bool | None = None
    native_step: bool = True
    optimization_level: Annotated[int, At(least=0, most=5)] | None = None
    name = "tensorrt"
    add_noise = None

    def prepare(self, net: nn.Module) -> None:
        raise DdiffError("backend=tensorrt samples and cannot train; train with another backend")

    def execution(self, net: nn.Module, precision: Precision) -> Execution:
        library = load_library("backend=tensorrt")
        device = device_of(net)
        if device.type != "cuda":
            raise DdiffError(f"backend=tensorrt needs an NVIDIA GPU, and this runs on {device}")
        check_capability("backend=tensorrt", torch.cuda.get_device_capability(device))
        engines: dict[tuple[Any, ...], Predict] = {}

        def predict(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            inputs = tuple(value.contiguous() for value in (x, t, y) if value is not None)
            shapes = tuple(value.shape for value in inputs)
            if shapes not in engines:
                engines[shapes] = self._engine(library, net, precision, inputs)
            return engines[shapes](*inputs)

        step = solver_step if self.native_step else reference
        return Execution(predict, step, graphs(self.graph, device), static=True)

    def _engine(
        self, library: Any, net: nn.Module, precision: Precision, inputs: tuple[Tensor, ...]
    ) -> Any:
        """Built, or read from the cache, for exactly these shapes."""
        path = cache_folder("tensorrt") / f"{self._key(net, precision, inputs)}.ep"
        if path.is_file():
            return torch.export.load(path).module()
        with torch.no_grad(), precision.autocast(inputs[0].device):
            program = torch.export.export(net, inputs)
        engine = library.dynamo.compile(
            program,
            arg_inputs=inputs,
            disable_tf32=not precision.tf32,
            min_block_size=1,
            optimization_level=self.optimization_level,  # None: TensorRT's default
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        library.save(engine, str(part), arg_inputs=list(inputs), retrace=False)
        os.replace(part, path)
        return engine

    def _key(self, net: nn.Module, precision: Precision, inputs: tuple[Tensor, ...]) -> str:
        """A hash of all that an engine depends on."""
        about = {
            "net": [repr(net), digest(net)],
            "inputs": [(tuple(value.shape), str(value.dtype)) for value in inputs],
            "precision": repr(precision),
            "level": self.optimization_level,
            "gpu": torch.cuda.get_device_name(),
            "versions": [torch.__version__, *installed()],
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def load_library(asked: str) -> Any:
    """The module torch_tensorrt, of whichever distribution is installed; `asked` wants it."""
    try:
        import torch_tensorrt  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DdiffError(
            f"{asked} needs Torch-TensorRT, which is not installed: "
            "pip install torch-tensorrt (data-centre GPUs) or torch-tensorrt-rtx (RTX GPUs), "
            f"of the version that matches torch {torch.__version__} ({error})"
        ) from error
    return torch_tensorrt


def supports(gpu: tuple[int, int]) -> bool:
    """Return True if TensorRT for RTX has kernels for GPUs of this compute capability."""
    return gpu >= CAPABILITY and not LEFT_OUT[0] <= gpu < LEFT_OUT[1]


def has_kernels(gpu: tuple[int, int]) -> bool:
    """Return False if the Torch-TensorRT that is installed is the one for RTX GPUs alone, and this
    GPU is none."""
    return supports(gpu) or {name.split()[0] for name in installed()} != {DISTRIBUTIONS[1]}


def check_capability(asked: str, gpu: tuple[int, int]) -> None:
    """Raise if the Torch-TensorRT that is installed has no kernels for this GPU."""
    if not has_kernels(gpu):
        raise DdiffError(
            f"{asked}: {', '.join(installed())} does not run on GPUs of compute capability "
            "{}.{}; pip install torch-tensorrt in its place, or choose another backend".format(*gpu)
        )


def installed() -> list[str]:
    """The distributions of Torch-TensorRT that are here, with their versions."""
    found = []
    for name in DISTRIBUTIONS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

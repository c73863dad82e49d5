"""8-bit layers as they go to TensorRT; the reference rounds here, in the place of ModelOpt."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddiff.artifacts import formats
from ddiff.artifacts.formats import ExportWrapper, Inputs, Job
from ddiff.artifacts.quantised import NUMBERS, Quantised, quantise
from ddiff.system.errors import ConfigError, DdiffError
from tests.artifacts.worlds import psnr
from tests.support.sampling import labels, unet

GPU = torch.device("cuda")
LARGEST = {"int8": 127.0, "fp8": 448.0}


def reference(value: Tensor, largest: Tensor, name: str) -> Tensor:
    """What an engine makes of `value`: rounded to the nearest number of its scale."""
    scale = largest / LARGEST[name]
    scaled = (value.float() / scale).clamp(-LARGEST[name], LARGEST[name])
    nearest = scaled.to(torch.float8_e4m3fn).float() if name == "fp8" else scaled.round()
    return (nearest * scale).to(value.dtype)


@pytest.fixture(autouse=True)
def rounding() -> Iterator[None]:
    """The operation as ModelOpt defines it."""
    if hasattr(torch.ops.tensorrt, "quantize_op"):
        yield
        return
    library = torch.library.Library("tensorrt", "FRAGMENT")
    library.define(
        "quantize_op(Tensor input, Tensor amax, int num_bits, int exponent_bits, bool unsigned, "
        "bool narrow_range) -> Tensor"
    )

    def rounded(
        value: Tensor, amax: Tensor, bits: int, exponent: int, unsigned: bool, narrow: bool
    ) -> Tensor:
        assert (bits, unsigned, narrow) == (8, False, True)
        (name,) = (name for name, n in NUMBERS.items() if n.exponent_bits == exponent)
        return reference(value, amax, name)

    library.impl("quantize_op", rounded, "CompositeExplicitAutograd")
    torch.library.register_fake("tensorrt::quantize_op", lambda x, *_: torch.empty_like(x))
    yield
    library._destroy()


def inputs(kind: str, seed: int) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(4, *unet(kind).shape, generator=random)
    t = torch.randint(0, 200, (4,), generator=random)
    y = labels(kind, 4)
    return (x, t) if y is None else (x, t, y)


def test_numbers_of_a_scale() -> None:
    x = torch.tensor([0.0, 0.4, 0.6, -1.0, 3.0, 126.6, 300.0])
    largest = torch.tensor(127.0)
    assert reference(x, largest, "int8").tolist() == [0, 0, 1, -1, 3, 127, 127]
    # e4m3 has 8 steps between powers of two: 17 lies between 16 and 18, and goes to the even one
    x = torch.tensor([0.0, 1.0, 17.0, 19.1, -448.0, 1000.0])
    found = reference(x, torch.tensor(448.0), "fp8")
    assert found.tolist() == [0, 1, 16, 20, -448, 448]


@pytest.mark.parametrize(("name", "least"), [("int8", 40), ("fp8", 28)])
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_the_net_stays_the_net(kind: str, name: str, least: float) -> None:
    net = ExportWrapper(unet(kind).cpu(), torch.float32)
    wanted = net(*inputs(kind, 9))
    before = len([m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d | nn.Linear)])
    count = quantise(net, NUMBERS[name], (inputs(kind, seed) for seed in range(4)))
    assert count == before - 2
    found = net(*inputs(kind, 9))
    assert least < psnr(found, wanted) < 80  # near, and not the net as it was


def test_the_scales_are_those_met() -> None:
    layer = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    layer[0].weight.data = torch.tensor([[1.0, -2.0], [0.5, 0.25], [0.0, 0.0]])
    met = iter([(torch.tensor([[3.0, -7.0]]),), (torch.tensor([[5.0, 0.0]]),)])
    assert quantise(layer, NUMBERS["int8"], met) == 2
    first = layer[0]
    assert isinstance(first, Quantised)
    assert first.of_input.tolist() == 7
    assert first.of_weight.flatten().tolist() == pytest.approx([2, 0.5, 1e-8])
    found = first(torch.tensor([[7.0, 14.0]]))  # 14 is more than was met, and is cut to 7
    assert found.flatten().tolist() == pytest.approx([7 - 2 * 7, 3.5 + 1.75, 0], rel=0.01)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_program_rounds_inputs_and_weights(name: str) -> None:
    net = ExportWrapper(unet("2D").cpu(), torch.float32)
    calls = []

    def calibration() -> Iterator[Inputs]:
        calls.append(1)
        yield inputs("2D", 0)

    count = quantise(net, NUMBERS[name], calibration())
    job = Job(net, inputs("2D", 1), name, 4, calibration)
    nodes = [str(node.target) for node in job.program().graph.nodes]
    assert nodes.count("tensorrt.quantize_op.default") == 2 * count
    assert calls == [1]


def test_without_modelopt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    net = ExportWrapper(unet("2D").cpu(), torch.float32)
    job = Job(net, inputs("2D", 1), "fp8", 4, lambda: iter(()))
    with pytest.raises(DdiffError, match="ModelOpt, which is not installed: pip install nvidia-m"):
        formats.TensorRT().write(job, tmp_path / "model.trt.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_a_chip_or_a_library_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "installed", lambda: ["torch-tensorrt-rtx 2.11.0"])
    with pytest.raises(ConfigError, match="no activations to int8; choose fp8"):
        formats.TensorRT().check("int8", GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    formats.TensorRT().check("fp8", GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ConfigError, match=r"fp8 needs compute capability 8\.9.* has 8\.0"):
        formats.TensorRT().check("fp8", GPU)

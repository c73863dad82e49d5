"""8-bit layers as they go to TensorRT: rounded at the scales of a calibration."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from ddiff.artifacts.formats import ExportWrapper, Inputs, Job
from ddiff.artifacts.onnx import opened, write_onnx
from ddiff.artifacts.quantised import LEAST_SCALE, NUMBERS, Quantised, quantise, rounded
from ddiff.nets import DiT
from tests.artifacts.worlds import psnr
from tests.support.sampling import labels, small_net

CPU = torch.device("cpu")


def inputs(kind: str, seed: int) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(4, *small_net(kind).shape, generator=random)
    t = torch.randint(0, 200, (4,), generator=random)
    y = labels(kind, 4)
    return (x, t) if y is None else (x, t, y)


def test_numbers_of_a_scale() -> None:
    x = torch.tensor([0.0, 0.4, 0.6, -1.0, 3.0, 126.6, 300.0])
    one = torch.tensor(1.0)
    assert rounded(x, one, "int8").tolist() == [0, 0, 1, -1, 3, 127, 127]
    # e4m3 has 8 steps between powers of two: 17 lies between 16 and 18, and goes to the even one
    x = torch.tensor([0.0, 1.0, 17.0, 19.1, -448.0, 1000.0])
    assert rounded(x, one, "fp8").tolist() == [0, 1, 16, 20, -448, 448]
    assert rounded(x, one * 2, "fp8").tolist() == [0, 1, 16, 20, -448, 896]


def test_a_scale_for_each_row() -> None:
    x = torch.tensor([[0.9, 2.2], [0.9, 2.2]], dtype=torch.float16)
    found = rounded(x, torch.tensor([1.0, 0.5], dtype=torch.float16), "int8")
    assert found.tolist() == [[1, 2], [1, 2]]
    assert found.dtype == torch.float16


@pytest.mark.parametrize(("name", "least"), [("int8", 40), ("fp8", 28)])
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_the_net_stays_the_net(kind: str, name: str, least: float) -> None:
    net = ExportWrapper(small_net(kind).cpu(), torch.float32)
    wanted = net(*inputs(kind, 9))
    before = len([m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d | nn.Linear)])
    count = quantise(net, name, (inputs(kind, seed) for seed in range(4)))
    assert count == before - 2
    found = net(*inputs(kind, 9))
    assert least < psnr(found, wanted) < 80  # near, and not the net as it was


def test_the_ends_of_a_transformer_stay() -> None:
    torch.manual_seed(0)
    net = ExportWrapper(DiT((3, 8, 8), 5, width=32, depth=2, head_dim=16), torch.float32)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([3, 50, 100, 150])
    y = torch.tensor([-1, 0, 2, 4])
    wanted = net(x, t, y)
    quantise(net, "int8", iter([(x, t, y)]))
    found = [type(net.get_submodule(f"net.{name}")) for name in ("stem", "blocks.0.mlp.0", "out")]
    assert found == [nn.Linear, Quantised, nn.Linear]
    assert 30 < psnr(net(x, t, y), wanted) < 80


def test_the_scales_are_those_met() -> None:
    layer = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    layer[0].weight.data = torch.tensor([[1.0, -2.0], [0.5, 0.25], [0.0, 0.0]])
    met = iter([(torch.tensor([[3.0, -7.0]]),), (torch.tensor([[5.0, 0.0]]),)])
    assert quantise(layer, "int8", met) == 2
    first = layer[0]
    assert isinstance(first, Quantised)
    assert first.of_input.item() == pytest.approx(7 / 127)
    assert first.of_weight.tolist() == pytest.approx([2 / 127, 0.5 / 127, LEAST_SCALE])
    found = first(torch.tensor([[7.0, 14.0]]))  # 14 is more than was met, and is cut to 7
    assert found.flatten().tolist() == pytest.approx([7 - 2 * 7, 3.5 + 1.75, 0], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_the_onnx_file_rounds_inputs_and_weights(name: str, tmp_path: Path) -> None:
    """ONNX Runtime rounds as torch does, at the scales that were found."""
    net = ExportWrapper(small_net("2D").cpu(), torch.float32)
    calls = []

    def calibration() -> Iterator[Inputs]:
        calls.append(1)
        yield inputs("2D", 0)

    count = quantise(net, name, calibration())
    path = tmp_path / "model.onnx"
    write_onnx(Job(net, inputs("2D", 1), name, None, calibration), path)
    assert calls == [1]
    graph = onnx.load(path).graph
    weights = {value.name for value in graph.initializer}
    rounded_values = [n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert len([name for name in rounded_values if name in weights]) == count
    made = {n.output[0]: n.op_type for n in graph.node}
    inputs_of = [made.get(n.input[0]) for n in graph.node if n.op_type in ("Conv", "Gemm")]
    assert inputs_of.count("DequantizeLinear") == len(inputs_of) - 2  # but the first and the last
    found = opened(path, CPU, fused=False)(*inputs("2D", 2))
    assert psnr(found, net(*inputs("2D", 2))) > 50  # a sum in another order rounds to a neighbour

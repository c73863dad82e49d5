"""Explicit quantisation, as TensorRT fuses it into its 8-bit layers: convolutions and linear layers
whose input and weight are rounded at scales that a calibration found.

In an ONNX file the rounding is the pair QuantizeLinear, DequantizeLinear.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)
LEAST_SCALE = 2.0**-14  # the least number that float16 holds with all its digits


@dataclass(frozen=True)
class Number:
    """An 8-bit number: its largest value, and whether weights have a scale per channel."""

    dtype: torch.dtype
    largest: float
    per_channel: bool
    onnx: str  # its name in onnx.TensorProto


NUMBERS = {
    "int8": Number(torch.int8, 127, True, "INT8"),
    "fp8": Number(torch.float8_e4m3fn, 448, False, "FLOAT8E4M3FN"),
}


@torch.library.custom_op("ddiff::rounded", mutates_args=())
def rounded(value: Tensor, scale: Tensor, number: str) -> Tensor:
    """The multiples of `scale` by the 8-bit numbers next to `value / scale`.

    - `scale`: one number, or one for each row of `value`.
    """
    about = NUMBERS[number]
    wide = scale.float()[(..., *(None,) * (value.ndim - 1))] if scale.ndim else scale.float()
    scaled = (value.float() / wide).clamp(-about.largest, about.largest)
    nearest = scaled.round() if about.dtype == torch.int8 else scaled.to(about.dtype).float()
    return (nearest * wide).to(value.dtype)


@rounded.register_fake
def _(value: Tensor, scale: Tensor, number: str) -> Tensor:
    return torch.empty_like(value)


def translations() -> dict[Any, Any]:
    """Translation of `rounded` into nodes of ONNX, for the exporter."""
    from onnx import TensorProto, helper
    from onnxscript import opset20

    op: Any = opset20

    def pair(value: Any, scale: Any, number: str) -> Any:
        rows = [int(n) for n in scale.shape]
        kind = getattr(TensorProto, NUMBERS[number].onnx)
        zeros = helper.make_tensor("zero", kind, rows, [0] * (rows[0] if rows else 1))
        zero = op.Constant(value=zeros)
        bits = op.QuantizeLinear(value, scale, zero, axis=0)
        return op.DequantizeLinear(bits, scale, zero, axis=0)

    return {torch.ops.ddiff.rounded.default: pair}


class Quantised(nn.Module):
    """A layer whose input, known to reach `reach`, and weight are rounded to 8-bit numbers."""

    def __init__(self, layer: nn.Module, number: str, reach: Tensor):
        super().__init__()
        assert isinstance(layer, LAYERS)
        self.layer, self.number = layer, number
        self.of_input: Tensor
        self.of_weight: Tensor
        about, weight = NUMBERS[number], layer.weight.detach()
        axes = tuple(range(1 if about.per_channel else 0, weight.ndim))
        for name, value in (("of_input", reach), ("of_weight", weight.float().abs().amax(axes))):
            scale = (value.float() / about.largest).clamp(min=LEAST_SCALE)
            self.register_buffer(name, scale.to(weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        weight = {"weight": rounded(self.layer.weight, self.of_weight, self.number)}
        x = rounded(x, self.of_input, self.number)
        return functional_call(self.layer, weight, (x,), strict=False)


@torch.no_grad()
def quantise(net: nn.Module, number: str, calibration: Iterator[tuple[Tensor, ...]]) -> int:
    """Replaces the layers of `net`, but the first and the last one of maps or tokens, where the
    worst of the errors would be; returns how many. Ranges are those that `calibration` meets."""
    reaches: dict[nn.Module, Tensor] = {}
    wide: dict[nn.Module, None] = {}  # layers of maps or tokens, in the order of their calls

    def seen(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].ndim > 2:
            wide.setdefault(layer)
        most = args[0].abs().amax()
        reaches[layer] = torch.maximum(reaches.get(layer, most), most)

    with ExitStack() as hooks:
        for layer in net.modules():
            if isinstance(layer, LAYERS):
                hooks.callback(layer.register_forward_pre_hook(seen).remove)
        for inputs in calibration:
            net(*inputs)
    if len(wide) > 2:
        for end in (next(iter(wide)), next(reversed(wide))):
            del reaches[end]
    places = [(parent, n, m) for parent in net.modules() for n, m in parent.named_children()]
    for parent, name, layer in places:
        if layer in reaches:
            setattr(parent, name, Quantised(layer, number, reaches[layer]))
    return len(reaches)

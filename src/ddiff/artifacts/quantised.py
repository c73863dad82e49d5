"""Explicit quantisation, as TensorRT fuses it into its 8-bit layers: convolutions and linear layers
whose input and weight are rounded at scales that a calibration found.

The rounding is the operation `tensorrt::quantize_op`, which Torch-TensorRT turns into a pair of
layers. NVIDIA's ModelOpt defines it.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ddiff.system.errors import DdiffError

LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Number:
    """An 8-bit number: its bits of exponent, and whether weights have a scale per channel."""

    exponent_bits: int
    per_channel: bool


NUMBERS = {"int8": Number(0, True), "fp8": Number(4, False)}


class Quantised(nn.Module):
    """A layer whose input, known to reach `reach`, and weight are rounded to 8-bit numbers."""

    def __init__(self, layer: nn.Module, number: Number, reach: Tensor):
        super().__init__()
        assert isinstance(layer, LAYERS)
        self.layer, self.number = layer, number
        self.of_input: Tensor
        self.of_weight: Tensor
        axes = tuple(range(1 if number.per_channel else 0, layer.weight.ndim))
        largest = layer.weight.detach().float().abs().amax(axes, keepdim=number.per_channel)
        for name, value in (("of_input", reach.float()), ("of_weight", largest)):
            self.register_buffer(name, value.clamp(min=1e-8))  # a scale of 0 divides by 0

    def forward(self, x: Tensor) -> Tensor:
        weight = {"weight": self._rounded(self.layer.weight, self.of_weight)}
        return functional_call(self.layer, weight, (self._rounded(x, self.of_input),), strict=False)

    def _rounded(self, value: Tensor, largest: Tensor) -> Tensor:
        return torch.ops.tensorrt.quantize_op.default(
            value, largest, 8, self.number.exponent_bits, False, True
        )


@torch.no_grad()
def quantise(net: nn.Module, number: Number, calibration: Iterator[tuple[Tensor, ...]]) -> int:
    """Replaces the layers of `net`, but the first and the last convolution, where the worst of the
    errors would be; returns how many. Ranges are those that `calibration` meets."""
    layers = [m for m in net.modules() if isinstance(m, LAYERS)]
    convolutions = [m for m in layers if not isinstance(m, nn.Linear)]
    ends = {convolutions[0], convolutions[-1]} if len(convolutions) > 2 else set()
    chosen = [layer for layer in layers if layer not in ends]
    reaches: dict[nn.Module, Tensor] = {}

    def seen(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        most = args[0].abs().amax()
        reaches[layer] = torch.maximum(reaches.get(layer, most), most)

    with ExitStack() as hooks:
        for layer in chosen:
            hooks.callback(layer.register_forward_pre_hook(seen).remove)
        for inputs in calibration:
            net(*inputs)
    places = [(parent, n, m) for parent in net.modules() for n, m in parent.named_children()]
    for parent, name, layer in places:
        if layer in reaches:
            setattr(parent, name, Quantised(layer, number, reaches[layer]))
    return len(reaches)


def load_modelopt() -> None:
    """Makes the rounding known to torch, before Torch-TensorRT looks for it."""
    try:
        import modelopt.torch.quantization  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DdiffError(
            "8-bit engines need NVIDIA's ModelOpt, which is not installed: "
            f"pip install nvidia-modelopt ({error})"
        ) from error

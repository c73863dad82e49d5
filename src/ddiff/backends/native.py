"""ddiff's own operations, and on a GPU the whole sampling step in a CUDA graph."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddiff.backends.execution import Execution, device_of, graphs
from ddiff.kernels import group_norm_silu, winograd
from ddiff.kernels.solver_step import add_noise, solver_step
from ddiff.nets.blocks import Upsample
from ddiff.nets.norm import Norm
from ddiff.system.precision import Precision


@dataclass(frozen=True)
class Native:
    """`graph` None: a CUDA graph where there is a GPU."""

    graph: bool | None = None
    name = "native"
    add_noise = staticmethod(add_noise)

    def prepare(self, net: nn.Module) -> None:
        for part in net.modules():
            if isinstance(part, Norm):
                part.operation = group_norm_silu.group_norm
            elif _is_plain(part):
                part._conv_forward = winograd.trained_conv
            elif isinstance(part, Upsample):
                part.forward = partial(_upsampled, part)

    def execution(self, net: nn.Module, precision: Precision) -> Execution:
        device = device_of(net)
        net = copy.deepcopy(net)
        self.prepare(net)
        _lower(net, precision, device)
        graph = graphs(self.graph, device)
        return Execution(precision.with_autocast(net, device), solver_step, graph, static=graph)


def _upsampled(layer: Upsample, x: Tensor) -> Tensor:
    """Repeat, then convolve, where that is faster than one transposed convolution.

    In 3D it never is: the transposed convolution saves more multiplications than Winograd's
    algorithm.
    """
    if x.ndim == 4 and winograd.trains(x, layer.conv.weight):
        return layer.conv(F.interpolate(x, scale_factor=2.0))
    return Upsample.forward(layer, x)


class Winograd(nn.Module):
    """A layer whose convolution takes fewer multiplications where that pays; packed once."""

    def __init__(self, layer: nn.Module, conv: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d | nn.Conv3d)
        self.layer, self.conv, self.dtype = layer, conv, dtype
        self.packed = winograd.pack(conv.weight, dtype, upsample=isinstance(layer, Upsample))

    def forward(self, x: Tensor) -> Tensor:
        if not winograd.pays(self.conv.weight.shape, x.shape[2:], self.dtype):
            return self.layer(x)
        assert self.conv.bias is not None
        return winograd.conv(x.to(self.dtype), self.packed, self.conv.bias)


def _lower(net: nn.Module, precision: Precision, device: torch.device) -> None:
    """Weights in the number format they are used in; on CPUs, convolutions by Winograd."""
    dtype = getattr(torch, precision.dtype)
    if device.type == "cpu":
        _replace_convolutions(net, dtype)
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.Linear):
            part.to(dtype)  # what autocast would do at every call


def _replace_convolutions(parent: nn.Module, dtype: torch.dtype) -> None:
    for name, part in list(parent.named_children()):
        conv = part.conv if isinstance(part, Upsample) else part
        if _fits(conv, dtype):
            setattr(parent, name, Winograd(part, conv, dtype))
        elif not isinstance(part, Upsample):  # which uses the weights of its convolution alone
            _replace_convolutions(part, dtype)


def _fits(part: nn.Module, dtype: torch.dtype) -> bool:
    """Return True for a convolution that Winograd's algorithm can speed up at some size."""
    return _is_plain(part) and winograd.pays(part.weight.shape, (64, 64), dtype)


def _is_plain(part: nn.Module) -> TypeGuard[nn.Conv2d | nn.Conv3d]:
    """Return True for a convolution with a kernel of 3 whose output is as large as its input."""
    if not isinstance(part, nn.Conv2d | nn.Conv3d):
        return False
    ones = {*part.stride, *part.padding, *part.dilation, part.groups}
    return {*part.kernel_size} == {3} and ones == {1} and part.padding_mode == "zeros"

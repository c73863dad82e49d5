"""What native convolutions with a kernel of 3, stride 1 and padding 1 share."""

from collections.abc import Collection

import torch
from torch import Tensor

from ddiff.system.errors import KernelError


def layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=layout(x))


def chosen_dtype(x: Tensor) -> torch.dtype:
    """What autocast, if there is one, would compute in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def empty(x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    """The convolution of x, or of an output's gradient x (transposed), without its numbers."""
    shape = len(x), weight.shape[int(transposed)], *x.shape[2:]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))


def check(
    name: str, x: Tensor, weight: Tensor, inputs: int, dtypes: Collection[torch.dtype]
) -> None:
    """Raises KernelError unless axis `inputs` of a float32 weight with a kernel of 3 fits x."""
    if x.dtype not in dtypes or weight.dtype != torch.float32 or set(weight.shape[2:]) != {3}:
        raise KernelError(f"{name}: x is {x.dtype}, the weight {weight.dtype} {[*weight.shape]}")
    if x.ndim != weight.ndim or x.ndim not in (4, 5) or x.shape[1] != weight.shape[inputs]:
        raise KernelError(f"{name}: x is {list(x.shape)}, the weight {list(weight.shape)}")


def direct(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """As torch does it; transposed, x is an output's gradient, and there is no bias."""
    ones, zeros = [1] * (x.ndim - 2), [0] * (x.ndim - 2)
    how = ones, ones, ones, False, zeros, 1
    if not transposed:
        return dense(torch.convolution(x, weight, bias, *how))
    shaped = empty(x, weight, transposed)  # its memory format decides how torch goes about it
    mask = [True, False, False]
    backward = torch.ops.aten.convolution_backward
    return dense(backward(x, shaped, weight, None, *how, mask)[0])


def sizes(x: Tensor) -> tuple[int, ...]:
    """Batch, depth (1 in 2D), height, width."""
    return len(x), 1 if x.ndim == 4 else x.shape[2], *x.shape[-2:]


def strides(weight: Tensor) -> list[int]:
    """Of outputs, inputs, and three axes of taps."""
    outputs, inputs, *taps = weight.stride()
    return [outputs, inputs, *[0] * (3 - len(taps)), *taps]

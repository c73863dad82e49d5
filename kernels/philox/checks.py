"""What philox, solver_step and add_noise ask of their tensors before they take pointers."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddiff.system.errors import KernelError


def check(operation: str, mistakes: Iterator[str]) -> None:
    for mistake in mistakes:
        raise KernelError(f"{operation}: {mistake}")


def words(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    rest = "" if tensor.is_contiguous() else ", not contiguous"
    return f"{kind} {list(tensor.shape)} on {tensor.device}{rest}"


def unlike(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> Iterator[str]:
    """In words, how a tensor is not what it must be."""
    fits = tensor.dtype == dtype and tensor.shape == shape and tensor.device == device
    if not fits or not tensor.is_contiguous():
        kind = str(dtype).removeprefix("torch.")
        yield f"{name} is {words(tensor)}; it must be {kind} {list(shape)} on {device}, contiguous"

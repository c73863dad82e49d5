"""Adam's step with clipping and averaged weights in one pass over memory, and a gradient's norm."""

import functools
import math
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from ddiff.errors import KernelError

from ..building import load
from ..compilers import Device
from ..philox.checks import check, unlike
from .reference import grad_norm_reference, reference

__all__ = ["adam", "grad_norm", "grad_norm_reference", "reference"]

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define("grad_norm(Tensor[] grads) -> Tensor")
_library.define(
    "adam(Tensor(a!)[] parameters, Tensor[] grads, Tensor(b!)[] firsts, Tensor(c!)[] seconds, "
    "Tensor(d!)[] averages, Tensor[] steps, Tensor? norm, Tensor? found_inf, float max_norm, "
    "float lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled, "
    "float decay) -> ()"
)


class Options(Structure):
    """As in element.h."""

    _fields_ = [
        *((name, c_float) for name in ("max_norm", "lr", "rate1", "log_beta1", "beta2", "rate2")),
        *((name, c_float) for name in ("log_beta2", "eps", "l2", "shrink", "rate")),
    ]


def grad_norm(grads: Sequence[Tensor]) -> Tensor:
    """The norm [] of all gradients as one vector; the same bits with any number of threads.

    Raises KernelError where one is not float32, not dense, or on another device than the first.
    """
    return torch.ops.ddiff.grad_norm(grads)


def adam(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    firsts: Sequence[Tensor],
    seconds: Sequence[Tensor],
    averages: Sequence[Tensor],
    steps: Sequence[Tensor],
    norm: Tensor | None,
    found_inf: Tensor | None,
    max_norm: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    decay: float,
) -> None:
    """Adam's step number `steps[i]` (Kingma and Ba 2014), or AdamW's where `decoupled`, of the
    gradients scaled by min(1, max_norm / norm); then averages = decay averages + (1 - decay) p.

    firsts and seconds are the moments. All are float32; one parameter's tensors share their shape
    and memory format. steps [], norm [], found_inf [] are read on the device, and gradients are not
    written. norm None: no clipping. found_inf other than 0: only averages move.
    Raises KernelError where shapes, types, memory formats or devices do not fit.
    """
    torch.ops.ddiff.adam(
        *(parameters, grads, firsts, seconds, averages, steps, norm, found_inf, max_norm, lr),
        *(beta1, beta2, eps, weight_decay, decoupled, decay),
    )


def _norm_empty(grads: Sequence[Tensor]) -> Tensor:
    check("grad_norm", _unlike_first("grads", grads, grads))
    return grads[0].new_empty(())


def _norm_native(grads: Sequence[Tensor]) -> Tensor:
    norm = _norm_empty(grads)
    device: Device = "cpu" if norm.is_cpu else "cuda"
    function, blocks = _norm_functions(device)
    values = _pointers(grads), _sizes(grads), len(grads)
    if device == "cpu":
        function(*values, norm.data_ptr())
        return norm
    sums = norm.new_empty(blocks(*values[1:]))
    with torch.cuda.device(norm.device):
        stream = torch.cuda.current_stream().cuda_stream
        status = function(*values, norm.data_ptr(), sums.data_ptr(), stream)
    if status:
        raise KernelError(f"grad_norm: CUDA error {status} for {len(grads)} tensors")
    return norm


def _checked(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    firsts: Sequence[Tensor],
    seconds: Sequence[Tensor],
    averages: Sequence[Tensor],
    steps: Sequence[Tensor],
    norm: Tensor | None,
    found_inf: Tensor | None,
    *options: float,
) -> None:
    lists = {"grads": grads, "firsts": firsts, "seconds": seconds, "averages": averages}
    check("adam", _mistakes(parameters, lists, steps, norm, found_inf))


def _native(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    firsts: Sequence[Tensor],
    seconds: Sequence[Tensor],
    averages: Sequence[Tensor],
    steps: Sequence[Tensor],
    norm: Tensor | None,
    found_inf: Tensor | None,
    *options: float,
) -> None:
    lists = (parameters, grads, firsts, seconds, averages, steps)
    _checked(*lists, norm, found_inf)
    if not parameters:
        return
    values = (
        *map(_pointers, lists),
        *(_sizes(parameters), len(parameters)),
        *(None if value is None else value.data_ptr() for value in (norm, found_inf)),
        byref(_options(*options)),
    )
    if parameters[0].is_cpu:
        _function("cpu")(*values)
        return
    with torch.cuda.device(parameters[0].device):
        status = _function("cuda")(*values, torch.cuda.current_stream().cuda_stream)
    if status:
        raise KernelError(f"adam: CUDA error {status} for {len(parameters)} parameters")


def _options(
    max_norm: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: float,
    decay: float,
) -> Options:
    logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
    moments = 1 - beta1, logs[0], beta2, 1 - beta2, logs[1]
    l2, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    return Options(max_norm, lr, *moments, eps, l2, shrink, 1 - decay)


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _sizes(tensors: Sequence[Tensor]) -> Any:
    return (c_int64 * len(tensors))(*[tensor.numel() for tensor in tensors])


def _mistakes(
    parameters: Sequence[Tensor],
    lists: dict[str, Sequence[Tensor]],
    steps: Sequence[Tensor],
    norm: Tensor | None,
    found_inf: Tensor | None,
) -> Iterator[str]:
    for name, tensors in (*lists.items(), ("steps", steps)):
        if len(tensors) != len(parameters):
            yield f"there are {len(parameters)} parameters and {len(tensors)} {name}"
    yield from _unlike_first("parameters", parameters, parameters)
    for name, tensors in lists.items():
        yield from _unlike_first(name, tensors, parameters)
    scalars = {f"steps[{i}]": step for i, step in enumerate(steps)}
    for name, value in (*scalars.items(), ("norm", norm), ("found_inf", found_inf)):
        if value is not None and parameters:
            yield from unlike(name, value, torch.float32, (), parameters[0].device)


def _unlike_first(name: str, tensors: Sequence[Tensor], like: Sequence[Tensor]) -> Iterator[str]:
    """In words, how a tensor is not float32, dense, on the device of like[0], and as like[i] lies
    in memory."""
    for i, (tensor, other) in enumerate(zip(tensors, like, strict=True)):
        fits = tensor.dtype == torch.float32 and tensor.device == like[0].device
        if not (fits and tensor.shape == other.shape and _lie_alike(tensor, other)):
            kind = str(tensor.dtype).removeprefix("torch.")
            yield (
                f"{name}[{i}] is {kind} {list(tensor.shape)} on {tensor.device} with strides "
                f"{tensor.stride()}; it must be float32 {list(other.shape)} on {like[0].device} "
                f"with strides {other.stride()}, dense"
            )


def _lie_alike(a: Tensor, b: Tensor) -> bool:
    """Whether element n in memory is the same of both, and there are no gaps."""
    if a is b:
        formats = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
        return any(a.is_contiguous(memory_format=format) for format in formats)
    if a.stride() == b.stride():
        return True
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or one == other for size, one, other in strides)


@functools.cache
def _norm_functions(device: Device) -> tuple[Any, Any]:
    built = load("adam", device)
    function, blocks = built.ddiff_grad_norm, built.ddiff_grad_norm_blocks
    function.argtypes = [c_void_p, c_void_p, c_int64, c_void_p]
    function.argtypes += [c_void_p, c_void_p] if device == "cuda" else []
    function.restype = c_int if device == "cuda" else None
    blocks.argtypes, blocks.restype = [c_void_p, c_int64], c_int64
    return function, blocks


@functools.cache
def _function(device: Device) -> Any:
    function = load("adam", device).ddiff_adam
    function.argtypes = [c_void_p] * 7 + [c_int64, c_void_p, c_void_p, POINTER(Options)]
    function.argtypes += [c_void_p] if device == "cuda" else []
    function.restype = c_int if device == "cuda" else None
    return function


for _key in ("CPU", "CUDA"):
    _library.impl("grad_norm", _norm_native, _key)
    _library.impl("adam", _native, _key)
torch.library.register_fake("ddiff::grad_norm", _norm_empty, lib=_library)
torch.library.register_fake("ddiff::adam", _checked, lib=_library)

"""Group norm, scale and shift, SiLU in one native operation; backward keeps only its input."""

import functools
import struct

import torch
import torch.nn.functional as F
from torch import Tensor

from ddiff.system.errors import KernelError

from .. import calling

__all__ = ["group_norm", "reference"]

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # call.h: enum Type
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
PACK = struct.Struct("20qd2q").pack  # call.h: struct Call
BLOCK = 8192  # values of a sample that are worth a block of CUDA threads
MOST_CHANNELS = 48 * 1024 // 8  # two float32 sums of each in the shared memory of a block

ARGUMENTS = "(Tensor x, Tensor weight, Tensor bias, Tensor? scale, Tensor? shift, "
SAVED = "(Tensor dy, Tensor x, Tensor mean, Tensor rstd, " + ARGUMENTS[len("(Tensor x, ") :]
LIBRARY = torch.library.Library("ddiff", "FRAGMENT")
LIBRARY.define(
    f"group_norm_silu{ARGUMENTS}int groups, bool silu, float eps) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(f"group_norm_silu_backward{SAVED}int groups, bool silu) -> (Tensor, Tensor, Tensor)")
NORM = torch.ops.ddiff.group_norm_silu.default
NORM_BACKWARD = torch.ops.ddiff.group_norm_silu_backward.default


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """x [B, C, *S], weight and bias [C], scale and shift [B, C] -> [B, C, *S], in the type of x.

    Raises KernelError where shapes, types or devices do not fit.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return NORM(x, weight, bias, scale, shift, groups, silu, eps)[0]
    with torch._C._AutoDispatchBelowAutograd():  # saves half of the call's overhead
        return NORM(x, weight, bias, scale, shift, groups, silu, eps)[0]


def reference(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """`group_norm` as PyTorch writes it."""
    y = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
    if scale is not None and shift is not None:
        space = (...,) + (None,) * (x.ndim - 2)
        y = y * (1 + scale.to(x.dtype)[space]) + shift.to(x.dtype)[space]
    return F.silu(y) if silu else y


def _forward(x, weight, bias, scale, shift, groups, silu, eps):
    _check(x, weight, bias, scale, shift, groups)
    dense = x.contiguous(memory_format=FORMATS[x.ndim])
    y = torch.empty_like(dense)
    mean = dense.new_empty((x.shape[0], groups), dtype=torch.float32)
    rstd = torch.empty_like(mean)
    maps = dense, None, y, mean, rstd, None, None
    _call("", maps, (weight, bias, scale, shift), groups, silu, eps)
    return _formatted(y, x), mean, rstd


def _backward(dy, x, mean, rstd, weight, bias, scale, shift, groups, silu):
    _check(x, weight, bias, scale, shift, groups)
    if dy.shape != x.shape or dy.device != x.device:
        raise KernelError(f"group_norm: dy is {_words(dy)}, x {_words(x)}")
    dense = x.contiguous(memory_format=FORMATS[x.ndim])
    dy = dy.to(x.dtype).contiguous(memory_format=FORMATS[x.ndim])
    dx = torch.empty_like(dense)
    da = dense.new_empty(x.shape[:2], dtype=torch.float32)
    db = torch.empty_like(da)
    maps = dense, dy, dx, mean.contiguous(), rstd.contiguous(), da, db
    _call("_backward", maps, (weight, bias, scale, shift), groups, silu, 0.0)
    return _formatted(dx, x), da, db


def _formatted(y: Tensor, x: Tensor) -> Tensor:
    """Computed channels last; contiguous where x is, or is a slice of what is."""
    last = x.is_contiguous(memory_format=FORMATS[x.ndim])
    return y.contiguous() if not last and (x.is_contiguous() or x.stride(1) != 1) else y


def _call(suffix, maps, affine, groups, silu, eps) -> None:
    x, (weight, bias, scale, shift) = maps[0], affine
    if not x.numel():
        for empty in maps[3:]:  # sums over nothing
            if empty is not None:
                empty.zero_()
        return
    if weight.dtype is not torch.float32 or bias.dtype is not torch.float32:
        weight, bias = weight.float(), bias.float()
    weight, bias = weight.contiguous(), bias.contiguous()
    modulation = 0, 0, 0, 0, 0
    if scale is not None:
        scale = scale if scale.stride(1) == 1 else scale.contiguous()
        shift = shift.to(scale.dtype)
        shift = shift if shift.stride(1) == 1 else shift.contiguous()
        pointers = scale.data_ptr(), shift.data_ptr()
        modulation = *pointers, scale.stride(0), shift.stride(0), TYPES[scale.dtype]
    batch, channels = x.shape[0], x.shape[1]
    size = x.numel() // batch
    fields = (
        *[0 if value is None else value.data_ptr() for value in maps],
        *(weight.data_ptr(), bias.data_ptr(), *modulation),
        *(batch, size // channels, channels, groups),
        *(TYPES[x.dtype], silu, eps),
    )
    gpu, chunks, workspace = calling.gpu_of(x), 0, None
    if gpu is not None:
        if channels > MOST_CHANNELS:
            raise KernelError(
                f"group_norm: {channels} channels; the shared memory of a GPU's block holds "
                f"{MOST_CHANNELS}; choose backend=eager or compiled"
            )
        chunks = max(1, min(4 * _multiprocessors(gpu, x.device) // batch, size // BLOCK))
        each = 2 * (chunks * channels + groups)
        workspace = x.new_empty((batch, each), dtype=torch.float32)
    packed = PACK(*fields, 0 if workspace is None else workspace.data_ptr(), chunks)
    calling.call("group_norm_silu", "group_norm_silu" + suffix, "s", x, packed)


@functools.cache
def _multiprocessors(gpu: calling.Gpu, device: torch.device) -> int:
    return gpu.multiprocessors(device)


def _check(x, weight, bias, scale, shift, groups) -> None:
    """Raises KernelError, which says in words all that is wrong."""
    if wrong := "; ".join(_mistakes(x, weight, bias, scale, shift, groups)):
        raise KernelError(f"group_norm: {wrong}")


def _mistakes(x, weight, bias, scale, shift, groups):
    if x.ndim not in FORMATS or x.dtype not in TYPES:
        yield f"x is {_words(x)}, not [B, C, *S] in 2D or 3D, float32, bfloat16 or float16"
        return
    channels = x.shape[1]
    if groups < 1 or channels < 1 or channels % groups:
        yield f"{channels} channels are not {groups} equal groups"
    wanted = [("weight", weight, (channels,)), ("bias", bias, (channels,))]
    if (scale is None) != (shift is None):
        yield "scale and shift come together or not at all"
    elif scale is not None:
        wanted += [("scale", scale, x.shape[:2]), ("shift", shift, x.shape[:2])]
    for name, value, shape in wanted:
        if value.shape != shape or value.dtype not in TYPES or value.device != x.device:
            yield f"{name} is {_words(value)}, x {_words(x)}"


def _words(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def _fake_forward(x, weight, bias, scale, shift, groups, silu, eps):
    _check(x, weight, bias, scale, shift, groups)
    mean = x.new_empty((x.shape[0], groups), dtype=torch.float32)
    return _fake_result(x), mean, torch.empty_like(mean)


def _fake_backward(dy, x, mean, rstd, weight, bias, scale, shift, groups, silu):
    da = x.new_empty(x.shape[:2], dtype=torch.float32)
    return _fake_result(x), da, torch.empty_like(da)


def _fake_result(x: Tensor) -> Tensor:
    return _formatted(torch.empty_like(x.contiguous(memory_format=FORMATS[x.ndim])), x)


def _save(ctx, inputs, output) -> None:
    x, weight, bias, scale, shift, ctx.groups, ctx.silu, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mean, rstd, weight, bias, scale, shift)


def _differentiate(ctx, dy, _mean, _rstd):
    """z = a n + b with a = weight (1 + scale), b = bias (1 + scale) + shift."""
    x, mean, rstd, weight, bias, scale, shift = ctx.saved_tensors
    dx, da, db = NORM_BACKWARD(dy, x, mean, rstd, weight, bias, scale, shift, ctx.groups, ctx.silu)
    needs = ctx.needs_input_grad
    factor = 1 if scale is None else 1 + scale.float()
    d_weight = (da * factor).sum(0) if needs[1] else None  # autograd brings each to its type
    d_bias = (db * factor).sum(0) if needs[2] else None
    d_scale = da * weight + db * bias if needs[3] else None
    d_shift = db if needs[4] else None
    return dx, d_weight, d_bias, d_scale, d_shift, None, None, None


for _device in ("CPU", "CUDA"):
    LIBRARY.impl("group_norm_silu", _forward, _device)
    LIBRARY.impl("group_norm_silu_backward", _backward, _device)
torch.library.register_fake("ddiff::group_norm_silu", _fake_forward, lib=LIBRARY)
torch.library.register_fake("ddiff::group_norm_silu_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd(
    "ddiff::group_norm_silu", _differentiate, setup_context=_save, lib=LIBRARY
)

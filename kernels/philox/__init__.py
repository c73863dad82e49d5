"""Philox 4x32-10 (Salmon et al. 2011) and normal numbers, in plain torch and native.

A number depends on (key, sample, step, index of the element) alone: never on the batch or on what
was drawn before.
"""

import math

import torch
from torch import Tensor

from ..calling import call, require

__all__ = ["native_normal", "normal"]

LOW = 0xFFFFFFFF
PIECE = 1 << 17  # blocks worked on at once on a CPU: in its cache, and enough for four threads

_library = torch.library.Library("ddiff", "FRAGMENT")
_library.define("normal(Tensor samples, Tensor step, int key, int[] shape) -> Tensor")


def normal(key: int, samples: Tensor, step: int | Tensor, shape: tuple[int, ...]) -> Tensor:
    """N(0, 1), [B, *shape] float32: four numbers a block (Box and Muller 1958), in C order."""
    num, batch = math.prod(shape), len(samples)
    blocks = -(-num // 4)
    out = torch.empty(batch, blocks, 4, device=samples.device)
    rows, columns = batch, blocks
    if samples.device.type == "cpu" and not torch.compiler.is_compiling():
        columns = min(blocks, PIECE)
        rows = max(1, PIECE // max(1, columns))
    for row in range(0, batch, max(1, rows)):
        for column in range(0, blocks, max(1, columns)):
            part = out[row : row + rows, column : column + columns]
            index = torch.arange(column, column + part.shape[1], device=samples.device)
            r0, r1, r2, r3 = _words(key, samples[row : row + rows, None], step, index)
            for i, numbers in enumerate((*_box_muller(r0, r1), *_box_muller(r2, r3))):
                part[..., i] = numbers
    return out.view(batch, 4 * blocks)[:, :num].reshape(batch, *shape).contiguous()


def _words(
    key: int, samples: Tensor, step: int | Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of block `index` of `samples`, which broadcast against each other."""
    # a product of 32-bit words fills 64 bits, so int64 wraps, and >> brings its sign down: masked
    k0, k1 = key & LOW, key >> 32 & LOW
    zeros = torch.zeros_like(index + samples)
    c0, c1, c2, c3 = (zeros + word & LOW for word in (index, samples, samples >> 32, step))
    p, q = torch.empty_like(zeros), torch.empty_like(zeros)
    for _ in range(10):  # in place: fresh memory would take half as long again
        torch.mul(c0, 0xD2511F53, out=p)
        torch.mul(c2, 0xCD9E8D57, out=q)
        torch.bitwise_right_shift(q, 32, out=c0).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(LOW)
        torch.bitwise_right_shift(p, 32, out=c2).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(LOW)
        c1, c3, p, q = q, p, c3, c1  # their upper halves go with the next mask
        k0, k1 = k0 + 0x9E3779B9 & LOW, k1 + 0xBB67AE85 & LOW
    return c0, c1.bitwise_and_(LOW), c2, c3.bitwise_and_(LOW)


def _box_muller(r: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """R cos, R sin."""
    radius = (r.float() * 2**-32).add_(2**-33).log_().mul_(-2).sqrt_()
    # from the nearest half turn, so that float32 keeps the angle: w in -1/4 .. 1/4 is exact
    v = turn.float().mul_(2**-32)
    half = (2 * v).round_()  # 0, 1 or 2
    w = v.sub_(half, alpha=0.5).mul_(2 * math.pi)
    radius *= half.sub_(1).square_().mul_(2).sub_(1)
    return w.cos().mul_(radius), w.sin_().mul_(radius)


def native_normal(key: int, samples: Tensor, step: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`normal` in one pass. samples [B] and step [] are int64 on the device of the result.

    Raises KernelError where they are not.
    """
    return torch.ops.ddiff.normal(samples, step, key, shape)


def _empty(samples: Tensor, step: Tensor, key: int, shape: tuple[int, ...]) -> Tensor:
    require("normal: samples", samples, torch.int64, (samples.numel(),), samples.device)
    require("normal: step", step, torch.int64, (), samples.device)
    return torch.empty(len(samples), *shape, device=samples.device)


def _native(samples: Tensor, step: Tensor, key: int, shape: tuple[int, ...]) -> Tensor:
    out = _empty(samples, step, key, shape)
    if out.numel():
        values = (samples.data_ptr(), step.data_ptr(), key, len(samples), math.prod(shape))
        call("philox", "normal", "ppqqqp", out, *values, out.data_ptr())
    return out


_library.impl("normal", _native, "CPU")
_library.impl("normal", _native, "CUDA")
torch.library.register_fake("ddiff::normal", _empty, lib=_library)

"""Winograd's matrices, the packing of weights for the kernel, and where that pays."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

TILE, SIDE = 4, 6  # outputs and points of a tile along an axis
LANES = 16
PER_WORD = {torch.float32: 1, torch.bfloat16: 2}  # channels in 32 bits
PROCESSOR = {"avx2": torch.cpu._is_avx2_supported(), "amx": torch.cpu._is_amx_tile_supported()}
POINTS = 0.0, 0.66, -0.66, 1.54, -1.54  # and infinity, of the smallest error: notes.md


@cache
def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """A [6, 4], G [6, 3], B [6, 6] of F(4, 3), float64: y = A' ((G w) * (B d)).

    Toom and Cook's construction: with p(x) = prod (x - x_k), row k of B holds the coefficients of
    p(x) / (x - x_k), of A and G the powers of x_k, G divided by p'(x_k); infinity comes last.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)
    n = len(points)
    A, G, B = (torch.zeros(n + 1, width, dtype=torch.float64) for width in (TILE, 3, n + 1))
    A[:n], G[:n] = points[:, None] ** torch.arange(TILE), points[:, None] ** torch.arange(3)
    A[n, -1] = G[n, -1] = 1
    for k in range(n + 1):
        others = torch.cat([points[:k], points[k + 1 :]])
        product = torch.ones(1, dtype=torch.float64)  # coefficients, the constant first
        for root in others:
            zero = product.new_zeros(1)
            product = torch.cat([zero, product]) - root * torch.cat([product, zero])
        B[k, : len(product)] = product
        if k < n:
            G[k] /= (points[k] - others).prod()
    return A, G, B


def pack(weight: Tensor, dtype: torch.dtype, upsample: bool = False) -> Tensor:
    """weight [O, C, 3, 3] or [O, C, 3, 3, 3] -> what `conv` takes as its weight, in `dtype`:
    [phases, O / 16, 6, 6, taps, C / n, 16, n], n = 2 for bfloat16, else 1.

    upsample: for the convolution of an input whose values are repeated twice along each axis.
    """
    if dtype not in PER_WORD or weight.ndim not in (4, 5) or set(weight.shape[2:]) != {3}:
        raise KernelError(
            f"winograd: weights of 3 x 3 and 3 x 3 x 3 are packed into float32 or bfloat16; "
            f"this is {list(weight.shape)} into {dtype}"
        )
    taps = weight.detach().double()
    u = points(_phases(taps) if upsample else taps[None])
    if dtype == torch.bfloat16:
        A, _, B = matrices()
        error = (A @ A.T) * (B @ B.T)
        u = rounded(u.flatten(4), torch.kron(error, error)).reshape(u.shape)
    return laid_out(u, dtype)


def points(weight: Tensor) -> Tensor:
    """weight [phases, O, C, *K] float64 -> [phases, O, C, taps, 6, 6] float32."""
    _, G, _ = matrices()
    taps = weight.reshape(*weight.shape[:3], -1, 3, 3)
    return torch.einsum("pi,foctij,qj->foctpq", G, taps, G).float()


def laid_out(u: Tensor, dtype: torch.dtype) -> Tensor:
    """`points` as the kernel reads them."""
    phases, outputs, inputs = u.shape[:3]
    n = PER_WORD[dtype]
    padded = -(-outputs // LANES) * LANES, -(-inputs // n) * n
    whole = u.new_zeros(phases, *padded, *u.shape[3:])
    whole[:, :outputs, :inputs] = u
    whole = whole.unflatten(2, (-1, n)).unflatten(1, (-1, LANES))  # [f, O/16, 16, C/n, n, t, p, q]
    return whole.permute(0, 1, 6, 7, 5, 3, 2, 4).to(dtype).contiguous()


def _phases(weight: Tensor) -> Tensor:
    """[O, C, *K] -> [2^dims, O, C, *K']: taps that meet the same repeated value are added. Two are
    left of the first axis of 3D; the other axes keep three, one of them zero."""
    weight = weight[None]
    for axis in range(weight.ndim - 1, 2, -1):  # the last axis has the fastest phase
        a, b, c = weight.unbind(axis)
        zero = [torch.zeros_like(a)] if axis > weight.ndim - 3 else []
        pair = torch.stack([a, b + c, *zero], axis), torch.stack([*zero, a + b, c], axis)
        weight = torch.cat(pair)
    return weight


def rounded(points: Tensor, error: Tensor) -> Tensor:
    """points [..., P] in bfloat16's values, chosen so that their errors cancel in the output.

    With white inputs the mean square error of the output is e' H e for errors e of the points and
    H = (A A') * (B B'). Each point in turn is rounded to nearest, and what this did to the output
    is taken back by the points still to come (the update of GPTQ, Frantar et al. 2022).
    """
    factor = torch.linalg.cholesky(torch.linalg.inv(error), upper=True)
    back = (factor / factor.diagonal()[:, None]).tolist()
    left = points.movedim(-1, 0).contiguous()
    for k in range(len(left)):
        nearest = left[k].bfloat16().float()
        missed = left[k] - nearest
        left[k] = nearest
        for later in range(k + 1, len(left)):
            left[later].sub_(missed, alpha=back[k][later])
    return left.movedim(0, -1)


def pays(weight_shape: Sequence[int], spatial: Sequence[int], dtype: torch.dtype) -> bool:
    """Return True if tiles of 4 x 4 are faster on this CPU than oneDNN's convolution (notes.md)."""
    outputs, inputs, *kernel = weight_shape
    if set(kernel) != {3} or len(kernel) not in (2, 3) or min(outputs, inputs) < 32:
        return False
    height, width = spatial[-2:]
    tiles = math.ceil(height / TILE) * math.ceil(width / TILE)
    saved = 9 * height * width / (SIDE**2 * tiles)
    # wide vectors, and nothing faster for such products
    suits = PROCESSOR["avx2"] and not (dtype == torch.bfloat16 and PROCESSOR["amx"])
    return saved >= 2 and dtype in PER_WORD and suits

"""Winograd's matrices, the packing of weights for the kernel, and where that pays."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ddiff.system.errors import KernelError

Tile = tuple[int, int]
TILES: tuple[Tile, ...] = ((2, 2), (2, 4), (4, 4))
LANES = 16
PER_WORD = {torch.float32: 1, torch.bfloat16: 2}  # channels in 32 bits
PROCESSOR = {"avx2": torch.cpu._is_avx2_supported(), "amx": torch.cpu._is_amx_tile_supported()}
# Points of evaluation besides infinity. F(4, 3) has those of the smallest error: notes.md.
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.66, -0.66, 1.54, -1.54)}


@cache
def matrices(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """A [m + 2, m], G [m + 2, 3], B [m + 2, m + 2] of F(m, 3), float64: y = A' ((G w) * (B d)).

    Toom and Cook's construction: with p(x) = prod (x - x_k), row k of B holds the coefficients of
    p(x) / (x - x_k), of A and G the powers of x_k, G divided by p'(x_k); infinity comes last.
    """
    points = torch.tensor(POINTS[m], dtype=torch.float64)
    n = len(points)
    A, G, B = (torch.zeros(n + 1, width, dtype=torch.float64) for width in (m, 3, n + 1))
    A[:n], G[:n] = points[:, None] ** torch.arange(m), points[:, None] ** torch.arange(3)
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


def pack(
    weight: Tensor,
    dtype: torch.dtype,
    tile: Tile = (4, 4),
    transposed: bool = False,
    upsample: bool = False,
) -> Tensor:
    """weight [O, C, 3, 3] or [O, C, 3, 3, 3] -> what `conv` takes as its weight, in `dtype`:
    [phases, O / 16, tile_h + 2, tile_w + 2, taps, C / n, 16, n], n = 2 for bfloat16, else 1.

    tile: outputs along the last two axes; smaller tiles multiply more, and round less.
    transposed: for the convolution that makes the input's gradient of the output's.
    upsample: for the convolution of an input whose values are repeated twice along each axis.
    """
    if dtype not in PER_WORD or weight.ndim not in (4, 5) or set(weight.shape[2:]) != {3}:
        raise KernelError(
            f"winograd: weights of 3 x 3 and 3 x 3 x 3 are packed into float32 or bfloat16; "
            f"this is {list(weight.shape)} into {dtype}"
        )
    if tile not in TILES:
        raise KernelError(f"winograd: no tile {tile}; choose one of {TILES}")
    if transposed and upsample:
        raise KernelError("winograd: the gradient of an upsampling convolution is not one of these")
    if transposed:
        weight = weight.transpose(0, 1).flip(list(range(2, weight.ndim)))
    taps = weight.detach().double()
    u = points(_phases(taps) if upsample else taps[None], tile)
    if dtype == torch.bfloat16:
        (A, _, B), (A_w, _, B_w) = map(matrices, tile)
        error = torch.kron((A @ A.T) * (B @ B.T), (A_w @ A_w.T) * (B_w @ B_w.T))
        u = rounded(u.flatten(4), error).reshape(u.shape)
    return laid_out(u, dtype)


def points(weight: Tensor, tile: Tile) -> Tensor:
    """weight [phases, O, C, *K] float64 -> [phases, O, C, taps, tile_h + 2, tile_w + 2] float32."""
    G, G_w = (matrices(m)[1] for m in tile)
    taps = weight.reshape(*weight.shape[:3], -1, 3, 3)
    return torch.einsum("pi,foctij,qj->foctpq", G, taps, G_w).float()


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
    """Whether tiles of (4, 4) are faster on this CPU than oneDNN's convolution: notes.md."""
    outputs, inputs, *kernel = weight_shape
    if set(kernel) != {3} or len(kernel) not in (2, 3) or min(outputs, inputs) < 32:
        return False
    height, width = spatial[-2:]
    saved = 9 * height * width / (36 * math.ceil(height / 4) * math.ceil(width / 4))
    # wide vectors, and nothing faster for such products
    suits = PROCESSOR["avx2"] and not (dtype == torch.bfloat16 and PROCESSOR["amx"])
    return saved >= 2 and dtype in PER_WORD and suits

"""The kernels' arithmetic in plain torch: same signatures, same packed weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import laid_out, matrices, points


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    tile, taps = (weight.shape[2] - 2, weight.shape[3] - 2), weight.shape[4]
    A, A_w = (matrices(n)[0].float() for n in tile)
    u = weight.permute(0, 1, 6, 5, 7, 4, 2, 3).flatten(3, 4).flatten(1, 2)
    u = u[:, : len(bias), : x.shape[1]].float()  # [phases, O, C, taps, p, q]
    volume = x if x.ndim == 5 else x.unsqueeze(2)  # [B, C, D, H, W]
    depth, height, width = volume.shape[2:]
    v = _points(volume, tile, around=int(taps > 1)).unfold(2, taps, 1)
    scale, z_scale = (1 if len(u) == 1 else 2), (2 if taps == 2 else 1)
    y = x.new_empty(len(x), len(bias), z_scale * depth, scale * height, scale * width)
    for phase, filters in enumerate(u):
        above = v.narrow(2, phase // 4, depth)
        m = torch.einsum("octpq,bczhwpqt->bozhwpq", filters, above)
        part = torch.einsum("pi,bozhwpq,qj->bozhiwj", A, m, A_w).flatten(5, 6).flatten(3, 4)
        part = part[..., :height, :width] + bias.float()[:, None, None, None]
        places = y[:, :, phase // 4 :: z_scale, phase // 2 % 2 :: scale, phase % 2 :: scale]
        places.copy_(part)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return (y if x.ndim == 5 else y.squeeze(2)).contiguous(memory_format=layout)


def plain(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    if transposed:
        weight = weight.transpose(0, 1).flip(list(range(2, weight.ndim)))
    return conv(x, laid_out(points(weight[None].double(), (4, 4)), x.dtype), bias)


def gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    A, G, _ = (m.float() for m in matrices(4))
    x, volume = (m if m.ndim == 5 else m.unsqueeze(2) for m in (x, dy))
    taps = 1 if weight.ndim == 4 else 3
    v = _points(x, (4, 4), around=int(taps > 1)).unfold(2, taps, 1)
    whole = F.pad(volume.float(), (0, -dy.shape[-1] % 4, 0, -dy.shape[-2] % 4))
    tiles = whole.unfold(3, 4, 4).unfold(4, 4, 4)
    z = torch.einsum("pi,bozhwij,qj->bozhwpq", A, tiles, A).to(dy.dtype).float()
    sums = torch.einsum("bczhwpqt,bozhwpq->octpq", v, z)
    dw = torch.einsum("pi,octpq,qj->octij", G, sums, G).reshape(weight.shape)
    return torch.empty_like(weight).copy_(dw), volume.float().sum((0, 2, 3, 4))


def _points(x: Tensor, tile: tuple[int, int], around: int) -> Tensor:
    """x [B, C, D, H, W] -> [B, C, D + 2 around, tiles_h, tiles_w, p, q], rounded as x is."""
    (_, _, B), (_, _, B_w) = ([m.float() for m in matrices(n)] for n in tile)
    h, w = ((1, 1 + -size % n) for size, n in zip(x.shape[-2:], tile, strict=True))
    padded = F.pad(x.float(), (*w, *h, around, around))
    d = padded.unfold(3, tile[0] + 2, tile[0]).unfold(4, tile[1] + 2, tile[1])
    return torch.einsum("pi,bczhwij,qj->bczhwpq", B, d, B_w).to(x.dtype).float()

"""The kernels' arithmetic in plain torch: same signatures, same packed weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import SIDE, TILE, laid_out, matrices, points


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    A, taps = matrices()[0].float(), weight.shape[4]
    u = weight.permute(0, 1, 6, 5, 7, 4, 2, 3).flatten(3, 4).flatten(1, 2)
    u = u[:, : len(bias), : x.shape[1]].float()  # [phases, O, C, taps, p, q]
    volume = x if x.ndim == 5 else x.unsqueeze(2)  # [B, C, D, H, W]
    depth, height, width = volume.shape[2:]
    v = _points(volume, around=int(taps > 1)).unfold(2, taps, 1)
    scale, z_scale = (1 if len(u) == 1 else 2), (2 if taps == 2 else 1)
    y = x.new_empty(len(x), len(bias), z_scale * depth, scale * height, scale * width)
    for phase, filters in enumerate(u):
        above = v.narrow(2, phase // 4, depth)
        m = torch.einsum("octpq,bczhwpqt->bozhwpq", filters, above)
        part = torch.einsum("pi,bozhwpq,qj->bozhiwj", A, m, A).flatten(5, 6).flatten(3, 4)
        part = part[..., :height, :width] + bias.float()[:, None, None, None]
        places = y[:, :, phase // 4 :: z_scale, phase // 2 % 2 :: scale, phase % 2 :: scale]
        places.copy_(part)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return (y if x.ndim == 5 else y.squeeze(2)).contiguous(memory_format=layout)


def plain(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool) -> Tensor:
    if transposed:
        weight = weight.transpose(0, 1).flip(list(range(2, weight.ndim)))
    return conv(x, laid_out(points(weight[None].double()), x.dtype), bias)


def gradient(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    A, G, _ = (m.float() for m in matrices())
    x, volume = (m if m.ndim == 5 else m.unsqueeze(2) for m in (x, dy))
    taps = 1 if weight.ndim == 4 else 3
    v = _points(x, around=int(taps > 1)).unfold(2, taps, 1)
    whole = F.pad(volume.float(), (0, -dy.shape[-1] % TILE, 0, -dy.shape[-2] % TILE))
    tiles = whole.unfold(3, TILE, TILE).unfold(4, TILE, TILE)
    z = torch.einsum("pi,bozhwij,qj->bozhwpq", A, tiles, A).to(dy.dtype).float()
    sums = torch.einsum("bczhwpqt,bozhwpq->octpq", v, z)
    dw = torch.einsum("pi,octpq,qj->octij", G, sums, G).reshape(weight.shape)
    return torch.empty_like(weight).copy_(dw), volume.float().sum((0, 2, 3, 4))


def _points(x: Tensor, around: int) -> Tensor:
    """x [B, C, D, H, W] -> [B, C, D + 2 around, tiles_h, tiles_w, p, q], rounded as x is."""
    B = matrices()[2].float()
    h, w = ((1, 1 + -size % TILE) for size in x.shape[-2:])
    padded = F.pad(x.float(), (*w, *h, around, around))
    d = padded.unfold(3, SIDE, TILE).unfold(4, SIDE, TILE)
    return torch.einsum("pi,bczhwij,qj->bczhwpq", B, d, B).to(x.dtype).float()

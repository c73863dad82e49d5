"""The kernel's arithmetic in plain torch: same signature, same packed weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import matrices


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


def _points(x: Tensor, tile: tuple[int, int], around: int) -> Tensor:
    """x [B, C, D, H, W] -> [B, C, D + 2 around, tiles_h, tiles_w, p, q], rounded as x is."""
    (_, _, B), (_, _, B_w) = ([m.float() for m in matrices(n)] for n in tile)
    h, w = ((1, 1 + -size % n) for size, n in zip(x.shape[-2:], tile, strict=True))
    padded = F.pad(x.float(), (*w, *h, around, around))
    d = padded.unfold(3, tile[0] + 2, tile[0]).unfold(4, tile[1] + 2, tile[1])
    return torch.einsum("pi,bczhwij,qj->bczhwpq", B, d, B_w).to(x.dtype).float()

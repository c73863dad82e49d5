"""Space to depth and back, in any number of dimensions."""

from torch import Tensor


def space_to_depth(x: Tensor, patch_size: int) -> Tensor:
    """Rearrange x [B, C, *S] to [B, C p^d, *S/p], with p = `patch_size`, channels last in memory.

    In 2D this is `F.pixel_unshuffle`.
    """
    if patch_size == 1:
        return x
    dims = x.ndim - 2
    cut = [n for size in x.shape[2:] for n in (size // patch_size, patch_size)]
    x = x.reshape(*x.shape[:2], *cut)  # [B, C, h, p, w, p]
    order = [0, *range(2, 2 + 2 * dims, 2), 1, *range(3, 3 + 2 * dims, 2)]
    return x.permute(order).flatten(1 + dims).movedim(-1, 1)


def depth_to_space(x: Tensor, patch_size: int) -> Tensor:
    """Rearrange x [B, C p^d, *S/p] to [B, C, *S], the inverse of `space_to_depth`.

    The result is contiguous in memory.
    """
    if patch_size == 1:
        return x
    dims = x.ndim - 2
    x = x.unflatten(1, (-1, *[patch_size] * dims))  # [B, C, p, p, h, w]
    order = [0, 1] + [axis for d in range(dims) for axis in (2 + dims + d, 2 + d)]
    x = x.permute(order)  # [B, C, h, p, w, p]
    return x.reshape(*x.shape[:2], *(h * patch_size for h in x.shape[2::2]))

"""Checks of a net's options and inputs, with messages in words."""

from collections.abc import Sequence

from torch import Tensor

from ddiff.system.errors import ConfigError


def checked_shape(shape: Sequence[int], dims: tuple[int, ...] = (2, 3)) -> tuple[int, ...]:
    """Return `shape` as a tuple; ConfigError unless it is [C, *S] with `dims` dimensions in S."""
    forms = {2: "[C, H, W]", 3: "[C, D, H, W]"}
    if shape is None or len(shape) - 1 not in dims:
        found = None if shape is None else list(shape)
        raise ConfigError(f"net.shape must be {' or '.join(forms[d] for d in dims)}, not {found}")
    return tuple(int(n) for n in shape)


def check_input(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless x is [B, *shape]."""
    if tuple(x.shape[1:]) != shape:
        raise ConfigError(
            f"the net was built for inputs of {list(shape)}, and was given {list(x.shape[1:])}"
        )


def check_divides(shape: tuple[int, ...], divisor: int, why: str) -> None:
    """Raise ConfigError unless every size in `shape` [C, *S] is a multiple of `divisor`."""
    for size in shape[1:]:
        if size % divisor:
            below = size // divisor * divisor
            near = f"{below} or {below + divisor}" if below else str(divisor)
            raise ConfigError(
                f"an input of size {size} does not divide by {divisor} ({why}); {near} would do"
            )


def check_unet(
    resolutions: list[int],
    channels: Sequence[int],
    attention: Sequence[int],
    head_dim: int | None,
    checkpoint_levels: Sequence[int],
    modulation: str,
    mid_attention: bool,
) -> None:
    """Raise ConfigError if options of the U-Net do not fit together.

    - `resolutions`: the size of the feature maps, per level.
    """
    levels = range(len(channels))
    if unknown := sorted(set(checkpoint_levels) - set(levels)):
        raise ConfigError(f"net.checkpoint_levels has {unknown}; the levels are {list(levels)}")
    if attention and not set(attention) & set(resolutions):
        raise ConfigError(
            f"net.attention={list(attention)} is none of the feature map sizes {resolutions}"
        )
    attended = [c for c, size in zip(channels, resolutions, strict=True) if size in attention]
    for width in [*attended, *([channels[-1]] if mid_attention else [])]:
        if head_dim and width % head_dim:
            raise ConfigError(f"net.head_dim={head_dim} does not divide {width} of net.channels")
    if modulation not in ("scale_shift", "shift"):
        raise ConfigError(f"net.modulation={modulation}; choose from scale_shift, shift")

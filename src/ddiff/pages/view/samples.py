"""What can be looked at, in one form: images [N, C, H, W] or volumes [N, D, H, W], in [-1, 1]."""

from typing import Any, Literal

import numpy as np

from ddiff.system.errors import ConfigError, DdiffError
from ddiff.system.value_range import RANGES, Values

Kind = Literal["images", "volumes"]
CHOICES = ("auto", *RANGES)
FURTHEST = 10.0  # beyond this, "auto" does not believe that the values were meant as [-1, 1]


def kind_of(shape: tuple[int, ...]) -> Kind:
    """[N, C, H, W] with C 1 or 3: images; [N, 1, D, H, W], [N, D, H, W], [D, H, W]: volumes."""
    if len(shape) == 4 and shape[1] in (1, 3):
        return "images"
    if len(shape) in (3, 4) or (len(shape) == 5 and shape[1] == 1):
        return "volumes"
    raise DdiffError(
        f"cannot show an array of shape {list(shape)}: expected images [N, C, H, W] (C 1 or 3), "
        f"or volumes [N, 1, D, H, W], [N, D, H, W] or [D, H, W]"
    )


def as_images(samples: Any) -> np.ndarray:
    """float32 [N, C, H, W], C of 1 or 3. Raises DdiffError for another shape or a NaN."""
    array = finite(samples)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise DdiffError(f"images must be [N, C, H, W] with C 1 or 3, not {list(array.shape)}")
    return array


def as_volumes(samples: Any) -> np.ndarray:
    """float32 [N, D, H, W], of [N, 1, D, H, W], [N, D, H, W] or [D, H, W]; else a DdiffError."""
    array = finite(samples)
    if array.ndim == 5 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim in (3, 4):
        return array.reshape(-1, *array.shape[-3:])
    raise DdiffError(
        f"volumes must be [N, 1, D, H, W], [N, D, H, W] or [D, H, W], not {list(array.shape)}"
    )


def one_volume(volume: Any) -> np.ndarray:
    """float32 [D, H, W], of [D, H, W] or the same with leading ones."""
    volumes = as_volumes(volume)
    if len(volumes) != 1:
        raise DdiffError(f"expected one volume [D, H, W], not {len(volumes)} of them")
    return volumes[0]


def finite(samples: Any) -> np.ndarray:
    """float32, same shape; bool is occupancy, so it becomes -1 and 1."""
    array = np.asarray(samples)
    if array.dtype.kind not in "biuf":
        raise DdiffError(f"samples must be numbers or bool, not {array.dtype}")
    if array.size == 0:
        raise DdiffError(f"there is nothing to show: the array has shape {list(array.shape)}")
    if array.dtype.kind == "b":
        return np.where(array, np.float32(1), np.float32(-1))
    array = array.astype(np.float32, copy=False)
    bad = ~np.isfinite(array)
    if bad.any():
        first = np.argwhere(bad)[0].tolist()
        raise DdiffError(
            f"{bad.sum()} of {array.size} values are NaN or infinite, the first at {first}"
        )
    return array


def signed(samples: Any, value_range: str = "auto") -> np.ndarray:
    """float32 in [-1, 1], of a stranger's array. `value_range` says what it uses:

    signed: [-1, 1] already; unit: [0, 1]; bytes: 0..255; auto: bool is occupancy, and of others the
    bulk of the values decides (`Values.guess`).
    """
    if value_range not in CHOICES:
        raise ConfigError(f"value_range={value_range}: choose from {', '.join(CHOICES)}")
    array = finite(samples)
    if np.asarray(samples).dtype.kind == "b":
        return array
    if value_range == "auto":
        value_range = _guess(np.asarray(samples))
    scale = {"signed": None, "unit": 2.0, "bytes": 2.0 / 255.0}[value_range]
    return array if scale is None else array * np.float32(scale) - 1


def _guess(array: np.ndarray) -> str:
    values = Values()
    values.see(array)
    name = values.guess()
    if name != "signed" or max(-values.least, values.most) > FURTHEST:  # nothing is cut here
        values.check(name, declared=False)
    return name

"""Small operations on volumes [D, H, W]: padding, blur, interpolation, halving."""

import numpy as np

OUTSIDE = -1.0  # what lies beyond the border, so that solids cut by it are closed


def padded(volume: np.ndarray, width: int) -> np.ndarray:
    return np.pad(np.clip(volume, -1, 1), width, constant_values=OUTSIDE)


def blurred(field: np.ndarray, spacing: int = 1, outside: float = OUTSIDE) -> np.ndarray:
    """[1, 2, 1] / 4 along every axis, its taps `spacing` apart (standard deviation 0.7 spacing)."""
    for axis in range(field.ndim):
        line = np.moveaxis(field, axis, 0)
        out = line * np.float32(0.5)
        quarter = line * np.float32(0.25)
        out[spacing:] += quarter[:-spacing]
        out[:-spacing] += quarter[spacing:]
        out[:spacing] += np.float32(0.25 * outside)
        out[-spacing:] += np.float32(0.25 * outside)
        field = np.moveaxis(out, 0, axis)
    return np.ascontiguousarray(field)


def gradient(field: np.ndarray) -> np.ndarray:
    """Central differences, [..., ndim] with the axes in array order; zero on the border."""
    slopes = np.zeros((*field.shape, field.ndim), dtype=np.float32)
    for axis in range(field.ndim):
        line, out = np.moveaxis(field, axis, 0), np.moveaxis(slopes[..., axis], axis, 0)
        np.subtract(line[2:], line[:-2], out=out[1:-1])
    return slopes


def interpolate(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Trilinear values [n] (or [n, K] of a [D, H, W, K] field) at points [3, n] in array order."""
    depth, height, width = field.shape[:3]
    flat = field.reshape(depth * height * width, *field.shape[3:])
    limits = np.array([[depth - 2], [height - 2], [width - 2]])
    corner = np.clip(points.astype(np.int32), 0, limits)
    part = np.clip(points - corner, 0, 1).astype(np.float32)
    if field.ndim == 4:
        part = part[..., None]
    z, y, x = part
    index = (corner[0] * height + corner[1]) * width + corner[2]

    def along_x(start: np.ndarray) -> np.ndarray:
        here = flat[start]
        return here + x * (flat[start + 1] - here)

    def along_y(start: np.ndarray) -> np.ndarray:
        here = along_x(start)
        return here + y * (along_x(start + width) - here)

    here = along_y(index)
    return here + z * (along_y(index + height * width) - here)


def halved(volume: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels; odd sizes repeat their last plane."""
    volume = np.pad(volume, [(0, size % 2) for size in volume.shape], mode="edge")
    depth, height, width = (size // 2 for size in volume.shape)
    return volume.reshape(depth, 2, height, 2, width, 2).mean(axis=(1, 3, 5))


def limited(volume: np.ndarray, side: int) -> np.ndarray:
    """Halved until no side is longer than `side`."""
    while max(volume.shape) > side:
        volume = halved(volume)
    return volume

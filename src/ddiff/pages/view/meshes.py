"""Surfaces of volumes as triangles: for files, for TensorBoard, for the page.

Vertices are (x, y, z) in voxels: voxel [k, j, i] of a [D, H, W] volume has its centre at (i, j, k).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import marching_cubes

from ddiff.pages.view.rays import PAD, Scene
from ddiff.pages.view.reading import as_volumes, one_volume
from ddiff.system.files import replacing

NUDGE = 1e-3  # values this near the level are moved off it: no triangle without area
TINT = np.array([86, 140, 224], np.float32)


def isosurface(volume: Any, level: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float32 [V, 3] and faces int32 [F, 3] of where [D, H, W] crosses the level.

    Outside the border counts as below the level, so the surface is closed. Seen from outside the
    solid, faces turn anticlockwise. No crossing: two arrays of length zero.
    """
    field = np.clip(one_volume(volume) - level, -1, 1)
    field = np.pad(field, 1, constant_values=-1)
    field = np.where(np.abs(field) < NUDGE, np.where(field > 0, NUDGE, -NUDGE), field)
    if field.max() < 0:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    corners, faces, _, _ = marching_cubes(field, 0.0, gradient_direction="descent")
    # (z, y, x) to (x, y, z) mirrors the solid, so "descent" comes out as outward
    return np.ascontiguousarray(corners[:, ::-1] - 1, np.float32), faces.astype(np.int32)


def smooth_normals(scene: Scene, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outward unit normals [V, 3] in (x, y, z), and [V] in [0, 1]: how open the sky is there."""
    points = vertices[:, ::-1].T + PAD
    normals = scene.normals(points)
    return normals[::-1].T, scene.open_sky(points, normals)


def write_obj(path: str | Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    """Wavefront OBJ: text, read by everything."""
    lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    text = "\n".join([f"# {len(vertices)} vertices, {len(faces)} faces", *lines, ""])
    with replacing(Path(path), "w") as file:
        file.write(text)
    return Path(path)


def write_ply(path: str | Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    """Binary little-endian PLY: a tenth of the size and of the time."""
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, faces
    body = vertices.astype("<f4").tobytes() + rows.tobytes()
    with replacing(Path(path)) as file:
        file.write(header.encode() + body)
    return Path(path)


def write_stl(path: str | Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    """Binary STL: for printers and CAD."""
    corners = vertices[faces].astype("<f4")  # [F, 3, 3]
    rows = np.zeros(len(faces), dtype=[("floats", "<f4", (4, 3)), ("attribute", "<u2")])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    rows["floats"][:, 0] = normals / np.where(length > 0, length, 1)
    rows["floats"][:, 1:] = corners
    with replacing(Path(path)) as file:
        file.write(b"ddiff".ljust(80) + np.uint32(len(faces)).astype("<u4").tobytes())
        file.write(rows.tobytes())
    return Path(path)


WRITERS = {"ply": write_ply, "obj": write_obj, "stl": write_stl}  # by what follows the dot


def mesh_tensors(samples: Any, side: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices float32 [B, V, 3], faces int32 [B, F, 3], colours uint8 [B, V, 3].

    That is what TensorBoard's `add_mesh` takes: one box [-1, 1] for all, shorter meshes padded with
    their own last triangle, an empty volume a single point. Volumes longer than `side` are halved
    first.
    """
    meshes = [_painted(limited(volume, side)) for volume in as_volumes(samples)]

    def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
        longest = max(map(len, parts))
        missing = [[(0, longest - len(part)), (0, 0)] for part in parts]
        return np.stack([np.pad(*pair, mode="edge") for pair in zip(parts, missing, strict=True)])

    vertices, faces, colours = map(stacked, zip(*meshes, strict=True))
    return vertices, faces, colours


def _painted(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vertices, faces = isosurface(volume)
    if not len(faces):
        return np.zeros((1, 3), np.float32), np.zeros((1, 3), np.int32), np.zeros((1, 3), np.uint8)
    _, sky = smooth_normals(Scene.of(volume), vertices)
    colours = np.rint(TINT * (0.4 + 0.6 * sky[:, None])).astype(np.uint8)
    middle = (np.array(volume.shape[::-1], np.float32) - 1) / 2
    return (vertices - middle) / (max(volume.shape) / 2), faces, colours


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
